//! A trace as a graph for other programs to draw.

use std::fmt::Write as _;

use sidecar_core::lineage::Trace;

use super::forest::{Events, Module, forest};

/// A node: its text, and how it is drawn.
struct Node {
    text: String,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Event,
    Module,
    FailedModule,
}

#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    edges: Vec<(usize, usize)>,
}

impl Graph {
    fn of(trace: &Trace, all: bool) -> Self {
        let mut graph = Self::default();
        for events in forest(trace, all) {
            graph.events(&events, None);
        }
        graph
    }

    fn add(&mut self, text: String, shape: Shape, parent: Option<usize>) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node { text, shape });
        self.edges.extend(parent.map(|parent| (parent, node)));
        node
    }

    fn events(&mut self, events: &Events<'_>, parent: Option<usize>) {
        let name = if events.event_type.is_empty() { "(first event)" } else { events.event_type };
        let node = self.add(times(name, events.events.len()), Shape::Event, parent);
        for module in &events.modules {
            self.module(module, node);
        }
    }

    fn module(&mut self, module: &Module<'_>, parent: usize) {
        let (failed, given_up) = (module.failed.len(), module.given_up.len());
        let mut text =
            times(module.name.as_str(), module.committed.len() + module.earlier.len() + failed + given_up);
        for (count, what) in [(failed, "failed"), (given_up, "given up")] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        let shape = if failed + given_up > 0 { Shape::FailedModule } else { Shape::Module };
        let node = self.add(text, shape, Some(parent));
        for events in &module.events {
            self.events(events, Some(node));
        }
    }
}

fn times(name: &str, count: usize) -> String {
    if count > 1 { format!("{name} ×{count}") } else { name.to_owned() }
}

/// A flowchart in the language of Mermaid.
pub(super) fn mermaid(trace: &Trace, all: bool) -> String {
    let graph = Graph::of(trace, all);
    let mut text = String::from("flowchart LR\n");
    for (number, Node { text: label, shape }) in graph.nodes.iter().enumerate() {
        let label = mermaid_text(label);
        let (open, close) = if *shape == Shape::Event { ("([\"", "\"])") } else { ("[\"", "\"]") };
        let class = if *shape == Shape::FailedModule { ":::failed" } else { "" };
        let _ = writeln!(text, "    n{number}{open}{label}{close}{class}");
    }
    for (from, to) in &graph.edges {
        let _ = writeln!(text, "    n{from} --> n{to}");
    }
    text.push_str("    classDef failed stroke:#c00,color:#c00\n");
    text
}

/// A text between quotes: there only entities are safe.
pub(crate) fn mermaid_text(text: &str) -> String {
    let one = |c: char| match c {
        '"' | '#' | '&' | '<' | '>' | '`' | ';' | '\n' | '\r' => format!("#{};", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

/// A graph in the language of Graphviz.
pub(super) fn dot(trace: &Trace, all: bool) -> String {
    let graph = Graph::of(trace, all);
    let mut text = String::from("digraph trace {\n    rankdir=LR;\n");
    for (number, Node { text: label, shape }) in graph.nodes.iter().enumerate() {
        let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        let look = match shape {
            Shape::Event => "shape=ellipse",
            Shape::Module => "shape=box",
            Shape::FailedModule => "shape=box, color=red, fontcolor=red",
        };
        let _ = writeln!(text, "    n{number} [label=\"{label}\", {look}];");
    }
    for (from, to) in &graph.edges {
        let _ = writeln!(text, "    n{from} -> n{to};");
    }
    text.push_str("}\n");
    text
}
