//! From settings to a data plane that can be opened.

use std::fmt;
use std::path::PathBuf;

use super::config::{Config, Credential, Given, LONGEST_EXPIRY, Mistake, Problem, Setting};
use super::{DataPlane, blobs, documents, events, text};
use crate::blob::References;
use crate::error::Result;

impl Config {
    /// Parses the three URLs; nothing is opened or created.
    ///
    /// # Errors
    /// Every mistake in every setting.
    pub fn parse(&self, credential: impl Fn(Credential) -> Option<String>) -> Result<Unopened, Vec<Mistake>> {
        let given = Given { config: self, credential: &credential };
        let mut mistakes = Vec::new();
        for (setting, credential_of) in Credential::ALL {
            if credential(credential_of)
                .is_some_and(|value| value.bytes().any(|byte| byte.is_ascii_control()))
            {
                let problem = format!("needs {credential_of} without a line end or other control character");
                mistakes.push(Mistake { setting, problem, missing: None });
            }
        }
        let mut note = |setting: Setting, Problem { text, missing }: Problem| {
            mistakes.push(Mistake { setting, problem: text, missing });
        };
        let [blobs, documents, events] = [&self.blobs, &self.documents, &self.events]
            .map(|url| text::no_stray_credentials(url).map(|()| url.as_str()));
        let blobs = blobs.map_err(Problem::from).and_then(|url| blobs::parse(url, &given));
        let blobs = blobs.map_err(|problem| note(Setting::Blobs, problem));
        let documents = documents.map_err(Problem::from).and_then(|url| documents::parse(url, &given));
        let documents = documents.map_err(|problem| note(Setting::Documents, problem));
        let events = events.map_err(Problem::from).and_then(|url| events::parse(url, &given));
        let events = events.map_err(|problem| note(Setting::Events, problem));
        let mut references = Vec::new();
        for url in &self.references {
            let parsed = text::no_stray_credentials(url).map_err(Problem::from);
            match parsed.and_then(|()| blobs::parse_reference(url, &given)) {
                Ok((root, _)) if references.iter().any(|(other, _): &blobs::Referenced| *other == root) => {
                    note(Setting::References, format!("names {root} twice: its objects have one URL").into());
                }
                Ok(store) => references.push(store),
                Err(problem) => note(Setting::References, problem),
            }
        }
        if self.uri_expiry > LONGEST_EXPIRY {
            note(Setting::UriExpiry, "is more than 7d, the most that stores sign for".into());
        }
        match (blobs, documents, events) {
            (Ok(blobs), Ok(documents), Ok(events)) if mistakes.is_empty() => {
                Ok(Unopened { blobs, documents, events, references })
            }
            _ => Err(mistakes),
        }
    }
}

/// A data plane whose settings can be used, but which is not opened yet.
pub struct Unopened {
    blobs: blobs::Blobs,
    documents: documents::Documents,
    events: events::Events,
    references: Vec<blobs::Referenced>,
}

impl fmt::Debug for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.urls()).finish()
    }
}

impl Unopened {
    /// Opens the three stores; those on the network are connected by their first call.
    ///
    /// # Errors
    /// What a provider reports.
    pub fn open(&self) -> Result<DataPlane> {
        let references = self.references.iter().map(|(root, store)| Ok((root.clone(), (store.open)()?)));
        let references = references.collect::<Result<Vec<_>>>()?;
        Ok(DataPlane {
            blobs: (self.blobs.open)()?,
            documents: (self.documents.open)()?,
            events: (self.events.open)()?,
            references: References::new(references),
        })
    }

    /// The three URLs in full, without secrets.
    pub fn urls(&self) -> [(Setting, &str); 3] {
        [
            (Setting::Blobs, &self.blobs.url),
            (Setting::Documents, &self.documents.url),
            (Setting::Events, &self.events.url),
        ]
    }

    /// The URLs in full of the stores that events may refer to, without secrets.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        self.references.iter().map(|(_, store)| &*store.url)
    }

    /// The directories of this machine that will hold data.
    pub fn directories(&self) -> Vec<(Setting, PathBuf)> {
        let blobs = self.blobs.directories.iter().map(|dir| (Setting::Blobs, dir.clone()));
        let documents = self.documents.directories.iter().map(|dir| (Setting::Documents, dir.clone()));
        let events = self.events.directories.iter().map(|dir| (Setting::Events, dir.clone()));
        blobs.chain(documents).chain(events).collect()
    }
}
