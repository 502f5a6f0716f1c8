//! The page: nodes, locks and faults over time. The viewer serves it for a live cluster. The
//! simulations and chaos write it to a file, with a recorded run.
//!
//! All three record a [`Timeline`]. The page takes it in messages, of which a file contains one:
//! `{"now": .., "changed": {"spans": [..], "lines": [..]}}`.

mod links;
mod timeline;

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

pub use links::*;
pub use timeline::*;

/// The page, which loads [`STYLE`] and [`SCRIPT`].
pub const HTML: &str = include_str!("page.html");
/// The style of the page.
pub const STYLE: &str = include_str!("page.css");
/// The script of the page.
pub const SCRIPT: &str = include_str!("page.js");

const LOADS_STYLE: &str = r#"<link rel="stylesheet" href="/page.css">"#;
const LOADS_SCRIPT: &str = r#"<script src="/page.js"></script>"#;
/// The page in a file loads nothing.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
                      script-src 'unsafe-inline'";

/// A recorded run. Its times are nanoseconds.
#[derive(Debug, Default, Serialize)]
pub struct Trace {
    /// The heading.
    pub title: String,
    /// The command that replays the run, or reads it again.
    pub command: String,
    /// What ran: the name of an algorithm.
    pub subject: &'static str,
    /// The names of the lanes, which spans give by number.
    pub nodes: Vec<String>,
    /// The voters of each key.
    pub voters: BTreeMap<String, Vec<usize>>,
    /// `true` if epochs rise with the grants.
    pub is_fenced: bool,
    /// The name of the row of marks below the lanes.
    pub marks: &'static str,
    /// The part that is shown first.
    pub window: Range<Time>,
    /// The begin and the end of the run.
    pub run: Range<Time>,
    /// What happened.
    #[serde(skip)]
    pub timeline: Timeline,
}

impl Trace {
    /// Returns the page as one file.
    ///
    /// # Errors
    /// If the trace is not valid JSON.
    pub fn page(&self) -> serde_json::Result<String> {
        let json = self.timeline.message(&serde_json::to_string(self)?, 0)?;
        // Text in a script element must not look like its end.
        let json = json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028");
        let style = format!(
            "<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n<style>{STYLE}</style>"
        );
        let script = format!(
            "<script id=\"trace\" type=\"application/json\">{json}</script>\n<script>{SCRIPT}</script>"
        );
        let page = HTML.replacen(LOADS_STYLE, &style, 1);
        Ok(page.replacen(LOADS_SCRIPT, &script, 1))
    }
}

/// Parses `A..B`.
///
/// # Errors
/// If it is not a range of whole numbers, or empty.
pub fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let parts = text.split_once("..").ok_or("a range is written A..B")?;
    let number = |part: &str| {
        part.parse()
            .map_err(|_| format!("{part:?} is not a number"))
    };
    let (start, end) = (number(parts.0)?, number(parts.1)?);
    if start >= end {
        return Err(format!("{start}..{end} is empty"));
    }
    Ok(start..end)
}

/// Parses `A..B`, in milliseconds, for [`Trace::window`].
///
/// # Errors
/// As [`parse_range`].
pub fn parse_window(text: &str) -> Result<Range<Time>, String> {
    let Range { start, end } = parse_range(text)?;
    Ok(start.saturating_mul(1_000_000)..end.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_loads_no_external_resources() {
        for file in [HTML, STYLE, SCRIPT] {
            for word in ["http:", "https:", "@import", "url(h"] {
                let file = file.replace("http://www.w3.org/2000/svg", "");
                assert!(!file.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn file_contains_page_and_escaped_trace() {
        let title = "</script><img onerror=\"x\">".to_owned();
        let trace = Trace {
            title,
            ..Trace::default()
        };
        let page = trace.page().unwrap();
        assert!(!page.contains("<img") && page.contains("\\u003c/script>\\u003cimg"));
        for loads in ["src=", "rel=\"stylesheet\"", "href=\"/"] {
            assert!(!page.contains(loads), "{loads}");
        }
        assert!(page.contains(SCRIPT) && page.contains(STYLE));
    }
}
