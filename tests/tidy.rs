//! The laws of the house, executed: which words do not belong into the pure folders, who may know
//! whom, and how long a function, a file and a line may be.
//!
//! A file is read as text, with comments, strings and characters blanked out, so that a word in a
//! sentence is no offence and a brace in a string is no block.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;

const FUNCTION_LINES_MAX: usize = 90;
const FILE_LINES_MAX: usize = 900;
const LINE_COLUMNS_MAX: usize = 100;

/// Files with more offences of a kind than none: path, law, how many. A number may only go down.
const RATCHET: [(&str, Law, usize); 0] = [];

/// Where the rules live: no world in there.
const PURE: [&str; 3] = ["src/proto", "src/wire", "src/node"];
/// Where functions, files and lines are measured.
const ALL: [&str; 6] = ["src", "cli", "simulations", "tests", "examples", "benches"];

/// Sockets, clocks, threads, randomness, and whatever has an order that differs from run to run.
const WORDS: [&str; 11] = [
    "tokio",
    "chitchat",
    "UdpSocket",
    "Instant::now",
    "SystemTime",
    "thread_rng",
    "rand::rng",
    "HashMap",
    "HashSet",
    "println",
    ".await",
];

/// Which folders of ours a pure folder may name.
const MAY_NAME: [(&str, &[&str]); 3] = [
    ("proto", &["proto"]),
    ("wire", &["wire", "proto"]),
    ("node", &["node", "wire", "proto"]),
];

/// The two sides only exchange messages.
const FOREIGN_NODES: [(&[&str], &[&str]); 2] = [
    (
        &[
            "voter.rs",
            "voter_keeps.rs",
            "voter_says.rs",
            "session.rs",
            "slot.rs",
            "slots.rs",
            "recovery.rs",
        ],
        &["claimant", "own_claim", "Claimant", "OwnClaim"],
    ),
    (
        &[
            "aside.rs",
            "claimant.rs",
            "claimant_keeps.rs",
            "claimant_works.rs",
            "link.rs",
            "own_claim.rs",
            "renewal.rs",
        ],
        &[
            "voter",
            "voter_says",
            "slot",
            "slots",
            "recovery",
            "Voter",
            "Slot",
            "Slots",
            "Recovery",
        ],
    ),
];

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Law {
    Word,
    Import,
    ForeignNode,
    FunctionLength,
    FileLength,
    LineLength,
}

#[derive(Debug, Eq, PartialEq)]
struct Offence {
    path: String,
    line: usize,
    law: Law,
    what: String,
}

/// The files under `dir` of this repository, by their paths from its root.
fn sources(dir: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.join(dir)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy();
                files.push((
                    name.replace('\\', "/"),
                    std::fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

/// How many characters from here on are no code: a comment, a string, a character.
fn blank_length(rest: &[char]) -> usize {
    let starts = |text: &str| {
        text.chars()
            .enumerate()
            .all(|(n, c)| rest.get(n) == Some(&c))
    };
    let line = || rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
    let hashes = |from: usize| rest[from..].iter().take_while(|c| **c == '#').count();
    if starts("//") {
        line()
    } else if starts("/*") {
        let mut depth = 0;
        let mut at = 0;
        while at < rest.len() {
            match (rest[at], rest.get(at + 1)) {
                ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
                ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
                _ => at += 1,
            }
            if depth == 0 {
                break;
            }
        }
        at
    } else if starts("r") && rest.get(1 + hashes(1)) == Some(&'"') {
        let end: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes(1)]).collect();
        let body = 2 + hashes(1);
        let close = rest[body..].windows(end.len()).position(|w| w == end);
        close.map_or(rest.len(), |close| body + close + end.len())
    } else if starts("\"") {
        let mut at = 1;
        while at < rest.len() && rest[at] != '"' {
            at += if rest[at] == '\\' { 2 } else { 1 };
        }
        (at + 1).min(rest.len())
    } else if starts("'\\") {
        let close = rest[3..].iter().position(|c| *c == '\'');
        close.map_or(1, |close| close + 4)
    } else if starts("'") && rest.get(2) == Some(&'\'') {
        3
    } else {
        0
    }
}

/// The text with all that is no code blanked out, line by line as it was.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let mut in_word = false;
    while at < chars.len() {
        // The `r` of a raw string begins a word; that of `for` does not.
        let length = if in_word && chars[at] == 'r' {
            0
        } else {
            blank_length(&chars[at..])
        };
        for c in &chars[at..at + length] {
            code.push(if *c == '\n' { '\n' } else { ' ' });
        }
        at += length;
        if length == 0 {
            code.push(chars[at]);
            in_word = chars[at].is_alphanumeric() || chars[at] == '_';
            at += 1;
        }
    }
    code
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Where `word` stands in the code as a word of its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = code[..*at].chars().next_back();
            let after = code[*at + word.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}

fn first_name(path: &str) -> &str {
    let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &path[..end.unwrap_or(path.len())]
}

fn check_words(path: &str, text: &str) -> Vec<Offence> {
    let code = code_of(text);
    let mut offences = Vec::new();
    for word in WORDS {
        for (at, _) in code.match_indices(word) {
            let (path, line) = (path.to_owned(), line_of(&code, at));
            offences.push(Offence {
                path,
                line,
                law: Law::Word,
                what: word.to_owned(),
            });
        }
    }
    offences
}

/// Which of our folders a file names, by `crate::` or by enough `super::`.
fn check_imports(path: &str, text: &str) -> Vec<Offence> {
    let code = code_of(text);
    let modules: Vec<&str> = path.trim_end_matches(".rs").split('/').skip(1).collect();
    let Some((_, allowed)) = MAY_NAME.iter().find(|(folder, _)| modules[0] == *folder) else {
        return Vec::new();
    };
    let mut named: Vec<(usize, &str)> = Vec::new();
    for at in words(&code, "crate") {
        if let Some(rest) = code[at..].strip_prefix("crate::") {
            // A group at the root could name anything.
            named.push((
                at,
                if rest.starts_with('{') {
                    "{"
                } else {
                    first_name(rest)
                },
            ));
        }
    }
    let depth = modules.len() - usize::from(modules.last() == Some(&"mod"));
    // Within `mod tests { .. }` one is a level deeper.
    let depth = depth + usize::from(code.contains("mod tests {"));
    for (at, _) in code.match_indices(&"super::".repeat(depth)) {
        named.push((at, first_name(&code[at + "super::".len() * depth..])));
    }
    let forbidden = named
        .into_iter()
        .filter(|(_, name)| !allowed.contains(name));
    forbidden
        .map(|(at, name)| Offence {
            path: path.to_owned(),
            line: line_of(&code, at),
            law: Law::Import,
            what: name.to_owned(),
        })
        .collect()
}

/// Whether the voter's files name the claimant's, or the other way round.
fn check_foreign_nodes(path: &str, text: &str) -> Vec<Offence> {
    let Some(file) = path.strip_prefix("src/proto/") else {
        return Vec::new();
    };
    let code = code_of(text);
    let mut offences = Vec::new();
    for (_, names) in FOREIGN_NODES
        .iter()
        .filter(|(files, _)| files.contains(&file))
    {
        for name in *names {
            // Modules are also good names for variables: there they follow no `::` or `use`.
            let is_type = name.starts_with(char::is_uppercase);
            for at in words(&code, name) {
                let statement = code[..at].rfind([';', '}']).map_or(0, |end| end + 1);
                let in_use = words(&code[statement..at], "use").next().is_some();
                if is_type || in_use || code[at + name.len()..].starts_with("::") {
                    let (path, line) = (path.to_owned(), line_of(&code, at));
                    let what = (*name).to_owned();
                    offences.push(Offence {
                        path,
                        line,
                        law: Law::ForeignNode,
                        what,
                    });
                }
            }
        }
    }
    offences
}

/// How many lines the function has whose `fn` stands at `at`; `None` where it has no body.
fn function_lines(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (n, c) in code[at..].char_indices() {
        match c {
            // In the signature, `[u8; 4]` has a semicolon as well.
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(code[at..at + n].matches('\n').count() + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn check_lengths(path: &str, text: &str) -> Vec<Offence> {
    let code = code_of(text);
    let offence = |line, law, what| Offence {
        path: path.to_owned(),
        line,
        law,
        what,
    };
    let mut offences = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        offences.push(offence(1, Law::FileLength, format!("{lines} lines")));
    }
    for (n, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            offences.push(offence(
                n + 1,
                Law::LineLength,
                format!("{columns} columns"),
            ));
        }
    }
    for at in words(&code, "fn") {
        let lines = function_lines(&code, at).unwrap_or_default();
        let is_named = code[at + 2..]
            .trim_start()
            .starts_with(|c: char| c.is_alphabetic());
        if is_named && lines > FUNCTION_LINES_MAX {
            let (line, name) = (line_of(&code, at), first_name(code[at + 2..].trim_start()));
            offences.push(offence(
                line,
                Law::FunctionLength,
                format!("{name}: {lines} lines"),
            ));
        }
    }
    offences
}

/// Offences beyond what the table lets pass, and entries of the table that are too high.
fn held_against(table: &[(&str, Law, usize)], offences: Vec<Offence>) -> Vec<String> {
    let mut found: BTreeMap<(String, Law), Vec<Offence>> = BTreeMap::new();
    for offence in offences {
        found
            .entry((offence.path.clone(), offence.law))
            .or_default()
            .push(offence);
    }
    let mut complaints = Vec::new();
    for (path, law, allowed) in table {
        let here = found.get(&((*path).to_owned(), *law)).map_or(0, Vec::len);
        if here < *allowed {
            complaints.push(format!(
                "{path}: {law:?} is {here} now; lower it from {allowed}"
            ));
        }
    }
    for ((path, law), offences) in found {
        let entry = table.iter().find(|(p, l, _)| *p == path && *l == law);
        if offences.len() > entry.map_or(0, |(_, _, allowed)| *allowed) {
            let each = offences
                .iter()
                .map(|o| format!("{path}:{} {law:?} {}", o.line, o.what));
            complaints.extend(each);
        }
    }
    complaints
}

fn complain(check: impl Fn(&str, &str) -> Vec<Offence>, dirs: &[&str], laws: &[Law]) {
    let files: Vec<_> = dirs.iter().flat_map(|dir| sources(dir)).collect();
    assert!(files.len() > 5, "there is nothing to check in {dirs:?}");
    let offences = files
        .iter()
        .flat_map(|(path, text)| check(path, text))
        .collect();
    let table: Vec<_> = RATCHET
        .iter()
        .filter(|(_, law, _)| laws.contains(law))
        .copied()
        .collect();
    let complaints = held_against(&table, offences);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn no_word_of_the_world_is_in_the_pure_folders() {
    complain(check_words, &PURE, &[Law::Word]);
}

#[test]
fn arrows_point_down_only() {
    complain(check_imports, &PURE, &[Law::Import]);
}

#[test]
fn voter_and_claimant_never_see_each_other() {
    complain(check_foreign_nodes, &PURE, &[Law::ForeignNode]);
}

#[test]
fn functions_files_and_lines_are_short() {
    let laws = [Law::FunctionLength, Law::FileLength, Law::LineLength];
    complain(check_lengths, &ALL, &laws);
}

fn found(offences: &[Offence]) -> Vec<(usize, &str)> {
    offences.iter().map(|o| (o.line, o.what.as_str())).collect()
}

#[test]
fn a_word_is_found_in_code_and_not_in_a_sentence() {
    for word in WORDS {
        let forged = format!("fn f() {{\n    let x = a::{word}();\n}}\n");
        assert!(found(&check_words("src/proto/x.rs", &forged)).contains(&(2, word)));
        let sentence =
            format!("// {word}\n/* {word}\n/* {word} */ */ const A: &str = \"{word}\";\n");
        assert_eq!(check_words("src/proto/x.rs", &sentence), []);
    }
    // Not everything that looks like the end of a comment or a string is one.
    let tricky = "let q = '\"'; let n = '\\''; let s = \"//\\\"\"; use tokio;";
    assert_eq!(found(&check_words("src/wire/x.rs", tricky)), [(1, "tokio")]);
    let raw = "let s = r#\"a \" tokio\"#;\nfor x in 'a'..'b' { chitchat(x) }";
    assert_eq!(found(&check_words("src/wire/x.rs", raw)), [(2, "chitchat")]);
    let lifetime = "fn f<'a>(x: &'a str) -> Cow<'a, str> { println!(\"{x}\") }";
    assert_eq!(
        found(&check_words("src/wire/x.rs", lifetime)),
        [(1, "println")]
    );
}

#[test]
fn an_arrow_that_points_up_is_found() {
    let names = |path, text| {
        let offences = check_imports(path, text);
        found(&offences)
            .iter()
            .map(|(_, name)| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("src/proto/x.rs", "use crate::wire::Head;"), ["wire"]);
    assert_eq!(
        names("src/proto/x.rs", "fn f() { crate::node::g() }"),
        ["node"]
    );
    assert_eq!(
        names("src/proto/x.rs", "use super::super::wire::Head;"),
        ["wire"]
    );
    assert_eq!(
        names("src/proto/mod.rs", "use super::wire::Head;"),
        ["wire"]
    );
    assert_eq!(
        names("src/proto/tests/mod.rs", "use super::super::wire::Head;"),
        ["wire"]
    );
    assert_eq!(names("src/wire/x.rs", "use crate::{node, proto};"), ["{"]);
    assert_eq!(names("src/wire/x.rs", "use crate::node::Node;"), ["node"]);
    assert_eq!(
        names("src/node/x.rs", "use crate::runtime::Mesh;"),
        ["runtime"]
    );
    let fine = "use crate::wire::Head;\nuse crate::proto::id::Key;\nuse super::inspect::X;";
    assert_eq!(names("src/node/x.rs", fine), [""; 0]);
    assert_eq!(
        names(
            "src/wire/mod.rs",
            "use crate::proto::id::Key; // crate::node"
        ),
        [""; 0]
    );
    assert_eq!(
        names("src/proto/tests/x.rs", "use super::super::message::Claim;"),
        [""; 0]
    );
    assert_eq!(names("src/runtime/x.rs", "use crate::node::Node;"), [""; 0]);
}

#[test]
fn a_voter_that_names_a_claimant_is_found_and_a_variable_is_none() {
    let names = |path, text| {
        let offences = check_foreign_nodes(path, text);
        found(&offences)
            .iter()
            .map(|(_, name)| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let (voter, claimant) = ("src/proto/slot.rs", "src/proto/own_claim.rs");
    assert_eq!(names(voter, "use super::claimant::Request;"), ["claimant"]);
    assert_eq!(
        names(voter, "use super::{\n    id::Key,\n    own_claim,\n};"),
        ["own_claim"]
    );
    assert_eq!(names(voter, "fn f(c: &Claimant) {}"), ["Claimant"]);
    assert_eq!(names(claimant, "use super::voter::Start;"), ["voter"]);
    assert_eq!(names(claimant, "fn f() { super::slot::g() }"), ["slot"]);
    assert_eq!(
        names(
            claimant,
            "struct B { voter: NodeId }\nfn f(b: B) { b.voter }"
        ),
        [""; 0]
    );
    assert_eq!(
        names("src/proto/mod.rs", "pub mod voter;\npub mod claimant;"),
        [""; 0]
    );
}

#[test]
fn what_is_too_long_is_found() {
    let body = |lines: usize| {
        format!(
            "/// A doc.\nfn long(\n) {{\n{}}}\n",
            "    x;\n".repeat(lines)
        )
    };
    assert_eq!(check_lengths("src/x.rs", &body(FUNCTION_LINES_MAX - 3)), []);
    let offences = check_lengths("src/x.rs", &body(FUNCTION_LINES_MAX - 2));
    assert_eq!(found(&offences), [(2, "long: 91 lines")]);
    // A brace in a string ends nothing, and what has no body has no length.
    let tricky = body(FUNCTION_LINES_MAX).replacen("x;", "\"}\";", 1);
    assert_eq!(
        found(&check_lengths("src/x.rs", &tricky)),
        [(2, "long: 93 lines")]
    );
    let array = format!(
        "trait T {{\n    fn f(a: [u8; 4]);\n{}}}\n",
        "    // x\n".repeat(120)
    );
    assert_eq!(check_lengths("src/x.rs", &array), []);
    let array = body(FUNCTION_LINES_MAX).replace("long(", "long(a: [u8; 4]");
    assert_eq!(
        found(&check_lengths("src/x.rs", &array)),
        [(2, "long: 93 lines")]
    );
    let file = "\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(found(&check_lengths("src/x.rs", &file)), [(1, "901 lines")]);
    let line = format!("\n// {}\n", "ü".repeat(LINE_COLUMNS_MAX - 2));
    assert_eq!(
        found(&check_lengths("src/x.rs", &line)),
        [(2, "101 columns")]
    );
}

#[test]
fn the_ratchet_lets_pass_what_it_names_and_turns_one_way() {
    let offence = |path: &str| Offence {
        path: path.to_owned(),
        line: 3,
        law: Law::LineLength,
        what: "120 columns".to_owned(),
    };
    let table = [("a.rs", Law::LineLength, 2)];
    let complaints = |offences| held_against(&table, offences);
    assert_eq!(complaints(vec![offence("a.rs"), offence("a.rs")]), [""; 0]);
    assert_eq!(
        complaints(vec![offence("a.rs"), offence("a.rs"), offence("a.rs")]).len(),
        3
    );
    let lower = complaints(vec![offence("a.rs")]);
    assert_eq!(lower, ["a.rs: LineLength is 1 now; lower it from 2"]);
    let other = complaints(vec![offence("a.rs"), offence("a.rs"), offence("b.rs")]);
    assert_eq!(other, ["b.rs:3 LineLength 120 columns"]);
}
