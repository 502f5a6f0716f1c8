//! Which links are cut, in words.

/// The sides that cut links make, and their description.
#[derive(Debug, Default)]
pub struct Links {
    /// The side of each node; empty if links join all nodes. Side 0 is the largest.
    pub sides: Vec<usize>,
    /// The description; empty if no link is cut. It does not list cuts between sides.
    pub what: String,
}

impl Links {
    /// Describes the links of `size` nodes. `is_cut(from, to)` is `true` if that direction is cut.
    pub fn of(size: usize, is_cut: impl Fn(usize, usize) -> bool) -> Self {
        let sides = sides(size, &is_cut);
        let mut parts = Vec::new();
        if let Some(last) = sides.iter().max() {
            let side = |side| names((0..size).filter(|i| sides[*i] == side));
            let words: Vec<String> = (0..=*last).map(side).collect();
            parts.push(format!("partition: {}", words.join(" | ")));
        }
        let mut cuts = Vec::new();
        for (a, b) in (0..size).flat_map(|b| (0..b).map(move |a| (a, b))) {
            let crosses = !sides.is_empty() && sides[a] != sides[b];
            match (is_cut(a, b), is_cut(b, a)) {
                (true, true) if !crosses => cuts.push(format!("n{a}–n{b}")),
                (true, false) => cuts.push(format!("n{a}→n{b}")),
                (false, true) => cuts.push(format!("n{b}→n{a}")),
                _ => {}
            }
        }
        if !cuts.is_empty() {
            parts.push(format!("cut: {}", cuts.join(", ")));
        }
        let what = parts.join("; ");
        Self { sides, what }
    }
}

/// Returns the side of each node, or an empty list if all are on one side. Nodes are on one side if
/// a path of links joins them in both directions.
fn sides(size: usize, is_cut: &impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for start in 0..size {
        if groups.iter().flatten().any(|known| *known == start) {
            continue;
        }
        let mut group = vec![start];
        let mut at = 0;
        while let Some(i) = group.get(at).copied() {
            at += 1;
            let joined = |j: &usize| !group.contains(j) && !is_cut(i, *j) && !is_cut(*j, i);
            let more: Vec<usize> = (0..size).filter(joined).collect();
            group.extend(more);
        }
        groups.push(group);
    }
    if groups.len() < 2 {
        return Vec::new();
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let side = |i| groups.iter().position(|group| group.contains(&i));
    (0..size).map(|i| side(i).unwrap_or_default()).collect()
}

/// Formats numbers of nodes as `n0, n1`.
pub fn names(nodes: impl IntoIterator<Item = usize>) -> String {
    let names: Vec<String> = nodes.into_iter().map(|node| format!("n{node}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_connected_components_largest_first() {
        let of = |cut: &[(usize, usize)]| {
            let links = Links::of(3, |a, b| cut.contains(&(a, b)));
            (links.sides, links.what)
        };
        let whole = Vec::new();
        assert_eq!(of(&[]), (whole.clone(), String::new()));
        let pair = "cut: n0–n1".to_owned();
        assert_eq!(of(&[(0, 1), (1, 0)]), (whole, pair), "over n2");
        let one_way = "partition: n1, n2 | n0; cut: n0→n1, n0→n2".to_owned();
        assert_eq!(of(&[(0, 1), (0, 2)]), (vec![1, 0, 0], one_way));
        let both = "partition: n1, n2 | n0".to_owned();
        assert_eq!(of(&[(0, 1), (0, 2), (1, 0), (2, 0)]), (vec![1, 0, 0], both));
    }
}
