//! Document providers: where event contexts, execution records and insights are kept.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::replaceable::Replaceable;

mod kind;
#[cfg(feature = "local")]
mod local;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "mongodb")]
mod mongo;
#[cfg(feature = "postgres")]
mod postgres;

pub use kind::{Kind, Stored};
#[cfg(feature = "local")]
pub use local::Local;
#[cfg(feature = "memory")]
pub use memory::Memory;
#[cfg(feature = "mongodb")]
pub use mongo::{Mongo, MongoConfig};
#[cfg(feature = "postgres")]
pub use postgres::Postgres;

/// The most documents that one call of [`DocumentProvider::list`] returns.
pub const PAGE: usize = 500;

/// A document on its way to a store.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it is found by: one path segment of at most 128 bytes.
    pub id: String,
    /// The graph that it belongs to; a store may index it.
    pub correlation_id: String,
    /// A JSON object.
    pub json: String,
}

/// A store of JSON documents under their ids, in sets that are called kinds.
///
/// # Contract
/// - What was put or inserted is durable, and visible to every reader, when the call returns.
/// - A document put under an id that exists replaces the old one; there are never two.
/// - `insert` stores the document if there is none under its id, and returns whichever is stored then. However many
///   clients insert under one id at once, all of them get the same document, and so does every later `get`.
/// - What is read back has every field that was put, unchanged: the order of arrays survives, that of an object's
///   fields need not. A store may add fields; readers ignore those that they do not know.
/// - An id that was never put is `Ok(None)`; a store that cannot answer is an error.
/// - Kinds are sets of their own: equal ids of two kinds do not meet. A kind is known by its name alone.
/// - `list` returns each document that was there before it was called and is not deleted, page by page; `list_graph`
///   those of one correlation id.
///
/// # Retrying
/// Every call can be repeated safely; after an error any part of a slice may have been stored or deleted, and a
/// document that was to be inserted may be there, now or later.
///
/// # Errors
/// [`Error::Unavailable`] when the same call can succeed later, [`Error::Refused`] when it cannot,
/// [`Error::Corrupt`] when what is stored under the id is no such document.
///
/// # Implementing
/// `Display` is the store's short name for logs and errors; it never contains a secret.
/// The suite [`conformance::documents`](crate::conformance::documents) holds one test for each guarantee.
/// [`Documents`] gives every provider typed methods: a new kind of document touches no provider.
#[async_trait]
pub trait DocumentProvider: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The document with this id, as JSON, if there is one.
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>>;

    /// Stores documents, each under its id.
    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()>;

    /// Stores the document if there is none with its id, and returns whichever is stored.
    async fn insert(&self, kind: Kind, document: &Document) -> Result<String>;

    /// The next documents after the id `after`, in an order of the store's choice: at most [`PAGE`], with their
    /// ids. An empty page is the end.
    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>>;

    /// The same of one graph alone: the documents that were stored with this correlation id.
    ///
    /// By default all of the kind are looked at; a store with an index does better.
    async fn list_graph(
        &self,
        kind: Kind,
        correlation_id: &str,
        after: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let (mut found, mut after) = (Vec::new(), after.map(str::to_owned));
        while found.is_empty() {
            let page = self.list(kind, after.as_deref()).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            found.extend(page.into_iter().filter(|(_, json)| is_of_graph(json, correlation_id)));
        }
        Ok(found)
    }

    /// Removes documents; one that is absent is no error.
    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()>;

    /// Why the store can never take this document, if it cannot; asked before anything is stored.
    fn refuses(&self, document: &Document) -> Option<String> {
        let _ = document;
        None
    }

    /// Whether `insert` decides between clients on different machines.
    ///
    /// A store that cannot do so says `false`: then two attempts of one execution must not overlap.
    fn decides(&self) -> bool {
        true
    }

    /// The store's stable identity, which records and journals compare: two different stores never have the
    /// same, and one has the same in every process, whatever its credentials. It never contains a secret.
    ///
    /// By default `Display`, which is the short name for logs.
    fn id(&self) -> String {
        self.to_string()
    }

    /// The directories of this machine in which it keeps data.
    fn directories(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Checks that the store can be used: reachable, authorised, its tables there or made.
    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The methods of every document provider, by the types of the documents.
#[async_trait]
pub trait Documents: DocumentProvider {
    /// The document of this type with this id, if there is one.
    ///
    /// # Errors
    /// What the provider reports, and [`Error::Corrupt`] for a document of another shape.
    async fn find<T: Stored>(&self, id: &str) -> Result<Option<T>> {
        let found = self.get(T::KIND, id).await?;
        found.map(|json| parse(self, T::KIND, id, &json)).transpose()
    }

    /// Stores documents of one type.
    ///
    /// # Errors
    /// What the provider reports.
    async fn store<T: Stored>(&self, documents: &[T]) -> Result<()> {
        let encoded = documents.iter().map(|document| encode(self, document));
        let encoded: Vec<Document> = encoded.collect::<Result<_>>()?;
        if encoded.is_empty() { Ok(()) } else { self.put(T::KIND, &encoded).await }
    }

    /// Stores the document if there is none with its id, and returns whichever is stored.
    ///
    /// # Errors
    /// What the provider reports.
    async fn decide<T: Stored>(&self, document: &T) -> Result<T> {
        let encoded = encode(self, document)?;
        let stored = self.insert(T::KIND, &encoded).await?;
        parse(self, T::KIND, &encoded.id, &stored)
    }

    /// Why the store can never take the document, if it cannot.
    ///
    /// # Errors
    /// [`Error::Refused`] when it cannot be encoded.
    fn cannot_take<T: Stored>(&self, document: &T) -> Result<Option<String>> {
        Ok(self.refuses(&encode(self, document)?))
    }

    /// All documents of one type in one graph, in an order of the store's choice.
    ///
    /// # Errors
    /// What the provider reports, and [`Error::Corrupt`] for a document of another shape.
    async fn graph<T: Stored>(&self, correlation_id: &str) -> Result<Vec<T>> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.list_graph(T::KIND, correlation_id, after.as_deref()).await?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = Some(last.clone());
            for (id, json) in page {
                all.push(parse(self, T::KIND, &id, &json)?);
            }
        }
    }

    /// The next page of documents of one type; see [`DocumentProvider::list`].
    ///
    /// # Errors
    /// What the provider reports, and [`Error::Corrupt`] for a document of another shape.
    async fn page<T: Stored>(&self, after: Option<&str>) -> Result<Vec<(String, T)>> {
        let page = self.list(T::KIND, after).await?;
        let parse = |(id, json): (String, String)| parse(self, T::KIND, &id, &json).map(|found| (id, found));
        page.into_iter().map(parse).collect()
    }

    /// The same for whoever can do without those of another shape: each is an [`Error::Corrupt`] of its own.
    ///
    /// # Errors
    /// What the provider reports.
    async fn readable_page<T: Stored>(&self, after: Option<&str>) -> Result<Vec<(String, Result<T>)>> {
        let page = self.list(T::KIND, after).await?;
        let parse = |(id, json): (String, String)| {
            let read = parse(self, T::KIND, &id, &json);
            (id, read)
        };
        Ok(page.into_iter().map(parse).collect())
    }
}

impl<P: DocumentProvider + ?Sized> Documents for P {}

/// Whether a document belongs to a graph, as every kind of document tells.
fn is_of_graph(json: &str, correlation_id: &str) -> bool {
    graph_of(json).is_some_and(|graph| graph == correlation_id)
}

fn graph_of(json: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Of {
        correlation_id: String,
    }
    serde_json::from_str(json).ok().map(|of: Of| of.correlation_id)
}

/// As people read it: the embedded store keeps it so.
fn encode<T: Serialize + Stored>(provider: &(impl fmt::Display + ?Sized), document: &T) -> Result<Document> {
    let mut json = serde_json::to_string_pretty(document)
        .map_err(|error| Error::refused(&provider, format!("store {}", T::KIND.one()), error))?;
    json.push('\n');
    let (id, correlation_id) = (document.id(), document.correlation_id().to_owned());
    Ok(Document { id, correlation_id, json })
}

fn parse<T: DeserializeOwned>(
    provider: &(impl fmt::Display + ?Sized),
    kind: Kind,
    id: &str,
    json: &str,
) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::Corrupt {
        provider: provider.to_string(),
        what: format!("{} {id:?}", kind.name()),
        problem: error.to_string(),
    })
}

macro_rules! forward {
    ($($pointer:ident: $this:ident => $inner:expr),* $(,)?) => {$(
        #[async_trait]
        impl<P: DocumentProvider + ?Sized> DocumentProvider for $pointer<P> {
            async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
                let $this = self;
                $inner.get(kind, id).await
            }
            async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
                let $this = self;
                $inner.put(kind, documents).await
            }
            async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
                let $this = self;
                $inner.insert(kind, document).await
            }
            async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
                let $this = self;
                $inner.list(kind, after).await
            }
            async fn list_graph(
                &self,
                kind: Kind,
                correlation_id: &str,
                after: Option<&str>,
            ) -> Result<Vec<(String, String)>> {
                let $this = self;
                $inner.list_graph(kind, correlation_id, after).await
            }
            async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
                let $this = self;
                $inner.delete(kind, ids).await
            }
            fn refuses(&self, document: &Document) -> Option<String> {
                let $this = self;
                $inner.refuses(document)
            }
            fn decides(&self) -> bool {
                let $this = self;
                $inner.decides()
            }
            async fn check(&self) -> Result<()> {
                let $this = self;
                $inner.check().await
            }
            fn id(&self) -> String {
                let $this = self;
                $inner.id()
            }
            fn directories(&self) -> Vec<PathBuf> {
                let $this = self;
                $inner.directories()
            }
        }
    )*};
}

forward! {
    Arc: this => (**this),
    Box: this => (**this),
    Replaceable: this => this.current(),
}
