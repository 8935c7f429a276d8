//! What differs, as people look at it: texts as a diff, pictures side by side.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sidecar_core::lineage::Difference;
use sidecar_core::{DataPlane, Error};
use similar::TextDiff;

use crate::trace::{content, picture_type};

/// Larger files are only said to differ, in bytes.
const LARGEST: u64 = 1024 * 1024;
/// Lines of a diff for a terminal.
const LINES: usize = 60;

/// Differences, with what is in the files.
pub(super) struct Shown(Vec<One>);

struct One {
    difference: Difference,
    /// The difference of two texts, as lines.
    diff: Option<String>,
    /// Two pictures, as data URLs.
    pictures: Option<[String; 2]>,
}

impl Shown {
    /// Reads the files whose contents differ, as far as somebody can look at them.
    ///
    /// # Errors
    /// What the store reports.
    pub(super) async fn read(plane: &DataPlane, differences: Vec<Difference>) -> Result<Self, Error> {
        let mut all = Vec::with_capacity(differences.len());
        for difference in differences {
            let mut one = One { difference, diff: None, pictures: None };
            if let Some((recorded, found)) = &one.difference.contents
                && recorded.size.max(found.size) <= LARGEST
            {
                let contents = [content(plane, recorded).await?, content(plane, found).await?];
                one.diff = diff(&contents, &one.difference.place);
                let kind = picture_type(found.name.as_str());
                one.pictures = kind.map(|kind| {
                    contents.map(|bytes| format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
                });
            }
            all.push(one);
        }
        Ok(Self(all))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For a terminal.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        for One { difference, diff, .. } in &self.0 {
            let _ = writeln!(text, "{} {}", crate::exit::cell(&difference.place), difference.what);
            let Some(diff) = diff else { continue };
            let lines: Vec<&str> = diff.lines().collect();
            for line in &lines[..lines.len().min(LINES)] {
                // What a module wrote does not steer a terminal.
                let harmless: String =
                    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
                let _ = writeln!(text, "    {harmless}");
            }
            if lines.len() > LINES {
                let _ = writeln!(text, "    … {} more lines", lines.len() - LINES);
            }
        }
        text
    }

    /// For a browser, without anything from elsewhere.
    pub(super) fn page(&self, title: &str) -> String {
        let mut text = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\
             <title>replay</title><style>:root{{color-scheme:light dark}}body{{font:15px system-ui,sans-serif;margin:1rem}}\
             pre{{overflow:auto;padding:.5rem;background:#8882}}figure{{display:inline-block;margin:0 1rem 0 0;max-width:45%}}\
             img{{max-width:100%;background:#8883}}</style><h1>Replay of {}</h1><p>{}</p>",
            escaped(title),
            if self.0.is_empty() { "The outputs are the same." } else { "The outputs differ." }
        );
        for One { difference, diff, pictures } in &self.0 {
            let _ =
                write!(text, "<h2>{}</h2><p>{}</p>", escaped(&difference.place), escaped(&difference.what));
            if let Some([recorded, found]) = pictures {
                let _ = write!(
                    text,
                    "<figure><img src=\"{recorded}\" alt=\"recorded\"><figcaption>recorded</figcaption></figure>\
                     <figure><img src=\"{found}\" alt=\"now\"><figcaption>now</figcaption></figure>"
                );
            } else if let Some(diff) = diff {
                let _ = write!(text, "<pre>{}</pre>", escaped(diff));
            }
        }
        text.push('\n');
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The difference of two texts; `None` where one of them is none.
fn diff([recorded, found]: &[Vec<u8>; 2], name: &str) -> Option<String> {
    let (recorded, found) = (std::str::from_utf8(recorded).ok()?, std::str::from_utf8(found).ok()?);
    if recorded.contains('\0') || found.contains('\0') {
        return None;
    }
    let diff = TextDiff::from_lines(recorded, found);
    Some(diff.unified_diff().header(&format!("recorded {name}"), &format!("now {name}")).to_string())
}
