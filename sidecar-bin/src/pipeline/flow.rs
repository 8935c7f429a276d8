//! How events flow between the modules of a pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sidecar_core::plane::is_misspelling;

use super::file::{ModuleSpec, Pipeline};

impl Pipeline {
    /// What may be meant otherwise: types that nobody publishes or consumes, and circles.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let published: BTreeSet<&str> = self.published().keys().copied().collect();
        let subscribed: BTreeSet<&str> =
            self.modules.iter().flat_map(|module| &module.subscribes).map(String::as_str).collect();
        // A module that may publish anything may publish what is missing.
        let any = self.modules.iter().any(|module| module.publishes.is_none());
        for module in &self.modules {
            for event_type in
                module.publishes.iter().flatten().filter(|name| !subscribed.contains(name.as_str()))
            {
                let others = subscribed
                    .iter()
                    .copied()
                    .filter(|name| !module.subscribes.iter().any(|own| own == name));
                let meant = others.into_iter().find(|name| is_misspelling(event_type, name));
                let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
                warnings.push(format!(
                    "module {} publishes {event_type:?}, and no module subscribes to it{meant}",
                    module.name
                ));
            }
            for event_type in module.subscribes.iter().filter(|name| !published.contains(name.as_str())) {
                // Its own events it does not wait for.
                let own = |name: &&str| module.publishes.iter().flatten().any(|own| own == name);
                let mut others = published.iter().copied().filter(|name| !own(name));
                if let Some(meant) = others.find(|name| is_misspelling(event_type, name)) {
                    warnings.push(format!(
                        "module {} subscribes to {event_type:?}, and no module publishes it; did you mean {meant:?}?",
                        module.name
                    ));
                }
            }
        }
        if self.first_types().is_empty() && !any {
            warnings.push(
                "each type is published by a module: nothing begins unless such an event is submitted".into(),
            );
        }
        if let Some(circle) = self.circle() {
            warnings.push(format!(
                "the modules {} start each other in a circle: only they can end it",
                circle.join(", ")
            ));
        }
        for modules in self.by_group().into_values().filter(|modules| modules.len() > 1) {
            let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
            warnings.push(format!(
                "the modules {} share a group: each event reaches only one of them",
                names.join(", ")
            ));
        }
        warnings
    }

    /// The types that come from outside: no module publishes them.
    pub(super) fn first_types(&self) -> BTreeSet<&str> {
        let published = self.published();
        let subscribed = self.modules.iter().flat_map(|module| &module.subscribes).map(String::as_str);
        subscribed.filter(|name| !published.contains_key(name)).collect()
    }

    fn published(&self) -> BTreeMap<&str, Vec<&ModuleSpec>> {
        let mut published = BTreeMap::<&str, Vec<&ModuleSpec>>::new();
        for module in &self.modules {
            for event_type in module.publishes.iter().flatten() {
                published.entry(event_type).or_default().push(module);
            }
        }
        published
    }

    fn by_group(&self) -> BTreeMap<&str, Vec<&ModuleSpec>> {
        let mut groups = BTreeMap::<&str, Vec<&ModuleSpec>>::new();
        for module in &self.modules {
            groups.entry(module.group.as_str()).or_default().push(module);
        }
        groups
    }

    fn next(&self, module: &ModuleSpec) -> impl Iterator<Item = usize> {
        let publishes = module.publishes.as_deref().unwrap_or_default();
        let consumes = |other: &ModuleSpec| other.subscribes.iter().any(|name| publishes.contains(name));
        (0..self.modules.len()).filter(move |number| consumes(&self.modules[*number]))
    }

    /// The names of modules that start each other, if there are such.
    fn circle(&self) -> Option<Vec<&str>> {
        // Whoever is left when nobody is taken away any more that starts none of the others, is in a circle or leads to
        // one; whoever is then taken away that nobody starts only leads to it.
        let mut left: BTreeSet<usize> = (0..self.modules.len()).collect();
        loop {
            let ends = |number: &usize| {
                let starts = self.next(&self.modules[*number]).any(|next| left.contains(&next));
                let is_started =
                    left.iter().any(|other| self.next(&self.modules[*other]).any(|next| next == *number));
                !starts || !is_started
            };
            let gone: Vec<usize> = left.iter().copied().filter(ends).collect();
            if gone.is_empty() {
                break;
            }
            gone.iter().for_each(|number| {
                left.remove(number);
            });
        }
        (!left.is_empty()).then(|| left.iter().map(|number| self.modules[*number].name.as_str()).collect())
    }

    /// A flowchart in the language of Mermaid.
    pub(super) fn mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        let mut types = BTreeMap::<&str, usize>::new();
        let names = self
            .modules
            .iter()
            .flat_map(|module| module.subscribes.iter().chain(module.publishes.iter().flatten()));
        for name in names {
            let next = types.len();
            types.entry(name).or_insert(next);
        }
        for (name, number) in &types {
            let _ = writeln!(text, "    t{number}([\"{}\"])", crate::trace::mermaid_text(name));
        }
        for (number, module) in self.modules.iter().enumerate() {
            let _ = writeln!(text, "    m{number}[\"{}\"]", crate::trace::mermaid_text(module.name.as_str()));
            for name in &module.subscribes {
                let _ = writeln!(text, "    t{} --> m{number}", types[name.as_str()]);
            }
            for name in module.publishes.iter().flatten() {
                let _ = writeln!(text, "    m{number} --> t{}", types[name.as_str()]);
            }
        }
        text
    }
}
