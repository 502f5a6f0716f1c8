//! The blocks of code in the guide.

const GUIDE: &str = include_str!("../../docs/fences.md");

/// Returns the blocks of a language below the heading `section`.
///
/// # Panics
/// Panics if there are none.
fn blocks(section: &str, language: &str) -> Vec<&'static str> {
    let sections = GUIDE.split("\n## ").skip(1);
    let mut sections = sections.filter_map(|it| it.split_once('\n'));
    let found = sections.find(|(heading, _)| *heading == section);
    let (_, text) = found.unwrap_or_else(|| panic!("no section {section}"));
    let begin = format!("```{language}\n");
    let blocks = text.split(begin.as_str()).skip(1);
    let blocks: Vec<_> = blocks.map(|it| it.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "no {language} in {section}");
    blocks
}

/// Returns the `N` statements of a section.
pub(crate) fn sql<const N: usize>(section: &str) -> [&'static str; N] {
    let sql = blocks(section, "sql");
    sql.try_into()
        .unwrap_or_else(|all| panic!("{N} statements: {all:?}"))
}

/// Returns `statement` without `fence`, a part of it.
pub(crate) fn without(statement: &str, fence: &str) -> String {
    assert!(statement.contains(fence), "{statement}");
    statement.replace(fence, "")
}

/// Asserts that the Rust code of a section is in `source`, the source of a test that runs it.
pub(crate) fn assert_shows(section: &str, source: &str) {
    for block in blocks(section, "rust") {
        assert!(
            source.contains(block),
            "no test has this code of {section}:\n{block}"
        );
    }
}
