//! The table of trials that survived, in a page of the documentation.

use std::fmt::Write;

/// One row for each name, one column for each data plane; `count` says how many of how many survived.
pub fn table<R: Copy>(
    planes: [&str; 3],
    rows: impl IntoIterator<Item = R>,
    name: impl Fn(R) -> &'static str,
    count: impl Fn(R, usize) -> Option<[usize; 2]>,
    end: &str,
) -> String {
    let mut text =
        format!("| survived of tried | {} |\n| --- |{}\n", planes.join(" | "), " ---: |".repeat(3));
    let mut sum = [0, 0];
    for row in rows {
        write!(text, "| {} |", name(row)).unwrap();
        for plane in 0..planes.len() {
            match count(row, plane) {
                Some([tried, survived]) => {
                    write!(text, " {survived} of {tried} |").unwrap();
                    sum = [sum[0] + tried, sum[1] + survived];
                }
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
    let [tried, survived] = sum;
    writeln!(text, "\n**{survived} of {tried}** survived. {end}").unwrap();
    text
}

/// Puts the table between the marks of the page.
pub fn write(path: &str, marks: [&str; 2], table: &str) {
    // `cargo test` runs in the package's directory; the path is meant from the workspace's.
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(marks[0]).expect("the page has no mark for the table");
    let (_, after) = rest.split_once(marks[1]).expect("the page has no mark for the table's end");
    std::fs::write(path, format!("{before}{}\n{table}{}{after}", marks[0], marks[1])).unwrap();
}
