//! The screen: members above, locks below, in a terminal of any size.

use lockmesh::Note;
use lockmesh::observe::{NodeSurvey, Survey, SurveyHealth};
use lockmesh::status::{Inspection, LockState};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table, Widget};

use super::state::{Sort, Top};
use crate::look::{millis, shown, status};

const HELP: &str = "q quit  p pause  s sort  / filter  arrows, page up, page down: scroll";

pub(super) fn draw(top: &Top, area: Rect, buffer: &mut Buffer) {
    let Some((survey, _)) = &top.now else {
        let text = top.error.as_deref().unwrap_or("asking ...");
        return Line::raw(text.to_owned()).render(area, buffer);
    };
    let nodes = u16::try_from(survey.nodes.len() + 1).unwrap_or(u16::MAX);
    let nodes = nodes.min((area.height / 2).max(2));
    let rows = [
        Constraint::Length(1),
        Constraint::Length(nodes),
        Constraint::Min(0),
        Constraint::Length(1),
    ];
    let [head, members, locks, foot] = Layout::vertical(rows).areas(area);
    title(top, survey).render(head, buffer);
    Widget::render(member_table(top, survey), members, buffer);
    Widget::render(lock_table(top, locks.height), locks, buffer);
    foot_line(top).render(foot, buffer);
}

/// Renders one snapshot as text, with lines for all members and locks.
pub(super) fn to_text(top: &Top, width: u16) -> String {
    let nodes = top.now.as_ref().map_or(0, |(survey, _)| survey.nodes.len());
    let lines = 2 * (nodes + 1) + top.locks().len() + 4;
    let area = Rect::new(0, 0, width, u16::try_from(lines).unwrap_or(u16::MAX / 2));
    let mut buffer = Buffer::empty(area);
    draw(top, area, &mut buffer);
    let mut text = String::new();
    for y in 0..area.height.saturating_sub(1) {
        let line: String = (0..width)
            .filter_map(|x| buffer.cell((x, y)).map(|cell| cell.symbol()))
            .collect();
        text += line.trim_end();
        text += "\n";
    }
    format!("{}\n", text.trim_end())
}

fn title(top: &Top, survey: &Survey) -> Line<'static> {
    let (word, color) = match survey.health() {
        SurveyHealth::Ok => ("ok", Color::Green),
        SurveyHealth::Degraded => ("degraded", Color::Yellow),
        _ => ("blocked", Color::Red),
    };
    let mut text = format!(
        "lockmesh {}: {word}, {} of {} members vote, {} locks{}",
        survey.voter_set.tag(),
        survey.voting(),
        survey.voter_set.members().len(),
        survey.locks.len(),
        if survey.has_all_locks {
            ""
        } else {
            " and more"
        },
    );
    if top.is_paused {
        text += ", paused";
    }
    Line::styled(text, Style::new().fg(color).add_modifier(Modifier::BOLD))
}

fn foot_line(top: &Top) -> Line<'static> {
    match &top.error {
        Some(error) => Line::styled(error.clone(), Style::new().fg(Color::Red)),
        None if top.is_typing => Line::raw(format!("filter: {}_", shown(&top.filter))),
        None if !top.filter.is_empty() => {
            Line::raw(format!("filter: {}  {HELP}", shown(&top.filter)))
        }
        None => Line::raw(HELP),
    }
}

fn heading<const N: usize>(cells: [&'static str; N]) -> Row<'static> {
    Row::new(cells).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn member_table(top: &Top, survey: &Survey) -> Table<'static> {
    let rows = survey
        .nodes
        .iter()
        .map(|node| member_row(top, survey, node));
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(15),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let head = [
        "NODE", "STATE", "ALIVE", "KEYS", "HELD", "GRANTS/s", "IN/s", "OUT/s",
    ];
    Table::new(rows, widths).header(heading(head))
}

fn member_row(top: &Top, survey: &Survey, node: &NodeSurvey) -> Row<'static> {
    let (alive, dead) = (node.alive_by.len(), node.dead_by.len());
    let keys = node
        .answer
        .as_ref()
        .map(|answer| answer.overview.keys.to_string());
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"));
    let rates = top.rates(node);
    let row = Row::new([
        node.node.to_string(),
        status::state(survey, node).1,
        format!("{alive}/{}", alive + dead),
        keys.unwrap_or_else(|| "-".to_owned()),
        top.held_by(&node.node).to_string(),
        rate(rates.map(|rates| rates.grants)),
        rate(rates.map(|rates| rates.datagrams_in)),
        rate(rates.map(|rates| rates.datagrams_out)),
    ]);
    match status::state(survey, node).0 {
        "silent" | "other_voter_set" => row.style(Style::new().fg(Color::Red)),
        "recovering" => row.style(Style::new().fg(Color::Yellow)),
        _ => row,
    }
}

fn lock_table(top: &Top, height: u16) -> Table<'static> {
    let locks = top.locks();
    let shown = locks.into_iter().skip(top.skip).take(usize::from(height));
    let rows: Vec<Row<'static>> = shown.map(lock_row).collect();
    let has_notes = top.locks().into_iter().any(|lock| note_of(lock).is_some());
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(20),
        Constraint::Length(9),
        Constraint::Length(5),
        Constraint::Fill(1),
        // No room is taken while there are none.
        Constraint::Fill(if has_notes { 2 } else { 0 }),
    ];
    let mark = |sort, sorted, plain| if top.sort == sort { sorted } else { plain };
    let head = [
        mark(Sort::Key, "KEY*", "KEY"),
        mark(Sort::Holder, "HOLDER*", "HOLDER"),
        "EPOCH",
        mark(Sort::Remaining, "LEFT ms*", "LEFT ms"),
        mark(Sort::Waiting, "WAIT*", "WAIT"),
        "FIRST",
        if has_notes { "NOTE" } else { "" },
    ];
    Table::new(rows, widths).header(heading(head))
}

fn lock_row(lock: &Inspection) -> Row<'static> {
    let owner = lock.owner();
    let dash = || "-".to_owned();
    let first: Vec<&str> = lock
        .waiters
        .iter()
        .take(3)
        .map(|it| it.node.as_str())
        .collect();
    Row::new([
        shown(lock.key.as_str()),
        match (owner, &lock.state) {
            (Some(owner), _) => owner.node.to_string(),
            (None, LockState::Unknown) => "unknown".to_owned(),
            (None, _) => dash(),
        },
        owner.map_or_else(dash, |owner| owner.epoch.get().to_string()),
        owner.map_or_else(dash, |owner| millis(owner.remaining).to_string()),
        lock.waiting.to_string(),
        first.join(" "),
        note_of(lock).map_or_else(String::new, |note| shown(note.as_str())),
    ])
}

fn note_of(lock: &Inspection) -> Option<&Note> {
    lock.owner()?.note.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockmesh::observe::Observer;
    use lockmesh_harness::LocalMesh;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    #[tokio::test(flavor = "multi_thread")]
    async fn screen_fits_any_terminal_and_follows_keys() {
        let builder = LocalMesh::builder().nodes(3).insecure_plaintext();
        let mesh = builder.start().await.unwrap();
        let _a = mesh.node(0).lock("alpha").acquire().await.unwrap();
        let _b = mesh.node(1).lock("beta").acquire().await.unwrap();
        let peer = mesh.node(0).local_addr().to_string();
        let mut observer = Observer::insecure_plaintext([peer]);
        let mut top = Top::default();
        for is_known in [false, true] {
            if is_known {
                let survey = observer.survey_with_locks(10).await.unwrap();
                top.take(survey, std::time::Instant::now());
            }
            for (width, height) in (0..90).flat_map(|w| (0..26).map(move |h| (w, h))) {
                let area = Rect::new(0, 0, width, height);
                draw(&top, area, &mut Buffer::empty(area));
            }
        }
        let area = Rect::new(0, 0, 80, 24);
        let look = |top: &Top| {
            let mut buffer = Buffer::empty(area);
            draw(top, area, &mut buffer);
            let cells = buffer.content().iter().map(|cell| cell.symbol());
            cells.collect::<String>()
        };
        assert!(look(&top).contains("alpha") && look(&top).contains("beta"));
        for code in [
            KeyCode::Char('/'),
            KeyCode::Char('b'),
            KeyCode::Char('e'),
            KeyCode::Enter,
        ] {
            top.press(KeyEvent::from(code));
        }
        assert!(!look(&top).contains("alpha") && look(&top).contains("beta"));
        top.press(KeyEvent::from(KeyCode::Char('p')));
        assert!(look(&top).contains("paused"));
    }
}
