//! The tables of a document in Markdown.

/// Returns the cells of each row of the table whose header begins with `header`.
///
/// # Panics
/// Panics if there is no such table.
pub(crate) fn table<'a>(document: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let mut lines = document.lines();
    assert!(
        lines.any(|line| line.starts_with(header)),
        "no table {header}"
    );
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &'a str| {
        let row = row.trim_matches('|');
        row.split(" | ").map(str::trim).collect()
    };
    rows.map(cells).collect()
}

/// Returns the parts of `cell` that are set as code.
pub(crate) fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}
