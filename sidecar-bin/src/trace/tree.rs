//! A trace as lines for a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use indicatif::HumanBytes;
use sidecar_core::lineage::Trace;
use sidecar_core::plane::counted;

use super::forest::{Events, Module, forest};
use crate::exit;

/// One line for each group of events, and for each module that worked on it.
pub(crate) fn tree(trace: &Trace, all: bool) -> String {
    let forest = forest(trace, all);
    let stages = trace.stages();
    // A run that failed takes nothing from an outcome before it.
    let outcomes: BTreeSet<_> = trace.executions.iter().map(|of| (&of.event_id, &of.module)).collect();
    let count =
        |stage: fn(&sidecar_core::lineage::Stage<'_>) -> bool| stages.values().filter(|s| stage(s)).count();
    let mut text = format!(
        "{}: {}, {}",
        trace.correlation_id,
        counted(trace.events.len(), "event"),
        counted(outcomes.len(), "outcome")
    );
    for (count, what) in [
        (count(|stage| matches!(stage, sidecar_core::lineage::Stage::Failed(_))), "failed"),
        (count(|stage| matches!(stage, sidecar_core::lineage::Stage::GivenUp(_))), "given up"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text.push('\n');
    for events in &forest {
        events_lines(events, "", "", &mut text);
    }
    text
}

fn events_lines(events: &Events<'_>, first: &str, rest: &str, text: &mut String) {
    let name = if events.event_type.is_empty() { "(first event)" } else { events.event_type };
    let _ = write!(text, "{first}{}", exit::cell(name));
    match &*events.events {
        [one] => {
            let _ = write!(text, "  {}", one.event_id);
        }
        many => {
            let _ = write!(text, " ×{}", many.len());
        }
    }
    let (files, bytes) = events.files();
    if files > 0 {
        let _ = write!(text, "  {}, {}", counted(files, "file"), HumanBytes(bytes));
    }
    if events.superseded > 0 {
        let all = events.superseded == events.events.len();
        let count = if all { String::new() } else { format!("{} ", events.superseded) };
        let _ = write!(text, "  ({count}of an earlier run)");
    }
    let untouched = events.untouched();
    if untouched > 0 && !events.modules.is_empty() {
        let _ = write!(text, "  ({untouched} without an outcome yet)");
    } else if untouched > 0 {
        text.push_str("  (no outcome yet)");
    }
    text.push('\n');
    children(&events.modules, rest, text, module_lines);
}

fn module_lines(module: &Module<'_>, first: &str, rest: &str, text: &mut String) {
    let _ = write!(text, "{first}{}", module.name);
    let all = module.committed.len() + module.failed.len() + module.given_up.len();
    if all > 1 {
        let _ = write!(text, " ×{all}");
    }
    for (count, what) in [(module.failed.len(), "failed"), (module.given_up.len(), "given up")] {
        match count {
            0 => {}
            1 if all == 1 => {
                let _ = write!(text, ": {what}");
            }
            _ => {
                let _ = write!(text, ", {count} {what}");
            }
        }
    }
    if !module.earlier.is_empty() {
        let _ = write!(text, ", {}", counted(module.earlier.len(), "earlier run"));
    }
    if !module.retried.is_empty() {
        let _ = write!(text, ", {} failed at first", counted(module.retried.len(), "attempt"));
    }
    match (module.reused().count(), module.reused().next()) {
        (1, Some(from)) if all == 1 => {
            let _ = write!(text, ": outcome of {}/{}", from.event_id, from.name);
        }
        (count @ 1.., _) => {
            let _ = write!(text, ", {count} reused");
        }
        _ => {}
    }
    if let Some(time) = module.time() {
        let _ = write!(
            text,
            "  {}{}",
            short(time),
            if module.committed.len() > 1 { " in the median" } else { "" }
        );
    }
    let (files, bytes) = module.outputs();
    if files > 0 {
        let _ = write!(text, "  {}, {}", counted(files, "file"), HumanBytes(bytes));
    }
    let again = module.ran_again();
    if let Some((reason, count)) = again.iter().max_by_key(|(_, count)| **count) {
        let ran: usize = again.values().sum();
        let _ = match (all, again.len()) {
            (1, _) => write!(text, "  ran again: {reason}"),
            (_, 1) => write!(text, "  {ran} ran again: {reason}"),
            (_, _) => write!(text, "  {ran} ran again: {reason} (×{count}), …"),
        };
    }
    // What can be read of a failure without another command.
    if let Some((reason, more)) = most(module.given_up.iter().map(|letter| &*letter.reason)) {
        let letter = module.given_up.iter().find(|letter| letter.reason == reason);
        let id = letter
            .map(|letter| format!(" ({}, dead letter {})", counted(letter.attempts, "attempt"), letter.id));
        let id = id.unwrap_or_default();
        let _ = write!(text, "  {}{id}{more}", shortened(&exit::cell(reason)));
    } else if let Some((reason, more)) = most(module.failed.iter().map(|failure| &*failure.reason)) {
        let _ = write!(text, "  {}{more}", shortened(&exit::cell(reason)));
    }
    text.push('\n');
    children(&module.events, rest, text, events_lines);
}

fn children<T>(children: &[T], rest: &str, text: &mut String, lines: impl Fn(&T, &str, &str, &mut String)) {
    for (number, child) in children.iter().enumerate() {
        let is_last = number + 1 == children.len();
        let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lines(child, &format!("{rest}{branch}"), &format!("{rest}{below}"), text);
    }
}

/// The most frequent of several reasons, and how many others there are.
fn most<'r>(reasons: impl Iterator<Item = &'r str>) -> Option<(&'r str, String)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let (reason, count) = counts.iter().max_by_key(|(_, count)| **count)?;
    let more = match counts.len() - 1 {
        0 => String::new(),
        others => format!(" (×{count}), {}", counted(others, "other reason")),
    };
    Some((reason, more))
}

/// A time as people read it.
pub(super) fn short(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.1 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        _ => humantime::format_duration(Duration::from_secs(time.as_secs())).to_string(),
    }
}

/// So much of a reason fits on a line.
const REASON: usize = 200;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(REASON) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
