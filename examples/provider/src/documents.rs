//! Documents: each kind is a prefix of the server's keys.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use sidecar_core::documents::{Document, DocumentProvider, Kind, PAGE};
use sidecar_core::{Error, Result};

use crate::error;
use crate::server::Server;

/// Documents on a server.
#[derive(Debug, Clone)]
pub struct Documents {
    server: Server,
    name: String,
}

impl Documents {
    /// The documents below `name` on this server.
    pub fn open(server: &Server, name: &str) -> Self {
        Self { server: server.clone(), name: name.to_owned() }
    }

    fn prefix(&self, kind: Kind) -> String {
        format!("{}/{}/", self.name, kind.plural())
    }

    fn key(&self, kind: Kind, id: &str) -> String {
        format!("{}{id}", self.prefix(kind))
    }

    fn text(&self, kind: Kind, id: &str, value: Arc<[u8]>) -> Result<String> {
        String::from_utf8(value.to_vec()).map_err(|problem| Error::Corrupt {
            provider: self.to_string(),
            what: format!("{} {id}", kind.name()),
            problem: problem.to_string(),
        })
    }
}

impl fmt::Display for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "example documents {}", self.name)
    }
}

#[async_trait]
impl DocumentProvider for Documents {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        let found = self.server.get(&self.key(kind, id)).map_err(error(self, format!("read {id}")))?;
        found.map(|value| self.text(kind, id, value)).transpose()
    }

    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        for Document { id, json, .. } in documents {
            let put = self.server.put(&self.key(kind, id), json.as_bytes());
            put.map_err(error(self, format!("store {id}")))?;
        }
        Ok(())
    }

    // The server decides: a `get` before a `put` would let two clients win.
    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        let Document { id, json, .. } = document;
        let stored = self.server.put_if_absent(&self.key(kind, id), json.as_bytes());
        self.text(kind, id, stored.map_err(error(self, format!("insert {id}")))?)
    }

    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        let prefix = self.prefix(kind);
        let after = after.map(|after| self.key(kind, after)).unwrap_or_default();
        let page = self.server.list(&prefix, &after, PAGE).map_err(error(self, "list documents"))?;
        page.into_iter()
            .map(|(key, value)| {
                let id = key[prefix.len()..].to_owned();
                let json = self.text(kind, &id, value)?;
                Ok((id, json))
            })
            .collect()
    }

    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        for id in ids {
            self.server.delete(&self.key(kind, id)).map_err(error(self, format!("delete {id}")))?;
        }
        Ok(())
    }

    async fn check(&self) -> Result<()> {
        self.server.ping().map_err(error(self, "connect"))
    }
}
