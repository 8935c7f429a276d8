//! The guarantees of [`DocumentProvider`].

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::samples;
use super::{assert_directories, assert_short, assert_unavailable};
use crate::documents::{Document, Kind, PAGE};
use crate::{
    Blob, BlobKey, Context, Culprit, Digest, DocumentProvider, Documents, EventContext, EventHeader, EventId,
    Failure, FailureId, FileName, Insight, InsightId, KeyValuePairs, ModuleName, Phase, PrivateId, Producer,
};

/// Values that break what is careless: quotes, separators, unicode, operators, emptiness.
pub(super) const HOSTILE: [&str; 10] = [
    "",
    " ",
    "'; drop table contexts; --",
    "{\"$gt\": \"\"}",
    "$where",
    "a.b",
    "日本語 \u{1F980}",
    "\\\"\n\t\r",
    "null",
    "\u{7f}",
];

fn event_context() -> EventContext {
    let id = EventId::from(Uuid::new_v4());
    let name = FileName::parse("small/a b.png").unwrap();
    EventContext {
        context: EventHeader {
            name: String::new(),
            event_id: id.clone(),
            correlation_id: Uuid::new_v4().to_string(),
            parent_event_id: Uuid::new_v4().to_string(),
        },
        files: vec![name.clone()],
        data: KeyValuePairs::from_iter([("b", "2"), ("a", "1"), ("b", "2"), ("b", "1")]),
        blobs: vec![Blob {
            key: BlobKey::parse(&format!("{id}/m/{name}")).unwrap(),
            name,
            size: u64::from(u32::MAX) + 7,
            digest: Digest([0xc3; 32]),
            executable: true,
        }],
        references: Vec::new(),
        event_type: None,
        producer: Some(Producer {
            name: ModuleName::parse("m").unwrap(),
            run: 7,
            proposal: PrivateId::random(),
        }),
        traceparent: samples::traceparent(),
    }
}

fn insight() -> Insight {
    Insight {
        context: Context {
            name: ModuleName::parse("m").unwrap(),
            event_id: EventId::from(Uuid::new_v4()),
            correlation_id: "c".into(),
            parent_event_id: String::new(),
        },
        id: InsightId::from(Uuid::new_v4()),
        data: KeyValuePairs::from_iter([("width", "640"), ("height", "480"), ("width", "1")]),
    }
}

fn failure() -> Failure {
    Failure {
        context: insight().context,
        id: FailureId::from(Uuid::new_v4()),
        attempt: Some(PrivateId::random()),
        reason: HOSTILE.join("|"),
        phase: Phase::Committing,
        culprit: Culprit::Outputs,
        retryable: true,
        time: "2026-11-21T12:00:00Z".into(),
        blobs: event_context().blobs,
    }
}

/// A document as a store sees it.
fn raw(id: impl Into<String>, content: &Value) -> Document {
    Document { id: id.into(), correlation_id: "c".into(), json: content.to_string() }
}

/// The document that is stored, of which nothing but the fields of `content` matters: a store may add some.
async fn get(provider: &dyn DocumentProvider, kind: Kind, id: &str, content: &Value) -> Option<Value> {
    provider.get(kind, id).await.unwrap().map(|json| common(&json, content))
}

/// A document as JSON without the fields that `content` does not have.
fn common(json: &str, content: &Value) -> Value {
    let mut found: Value = serde_json::from_str(json).unwrap();
    found.as_object_mut().unwrap().retain(|field, _| content.get(field).is_some());
    found
}

/// What is read back equals what was put, with the order and the duplicates of its pairs.
pub async fn what_is_put_comes_back(provider: &dyn DocumentProvider) {
    let (context, insight) = (event_context(), insight());
    provider.store(std::slice::from_ref(&context)).await.unwrap();
    provider.store(std::slice::from_ref(&insight)).await.unwrap();
    assert_eq!(
        provider.find::<EventContext>(context.context.event_id.as_str()).await.unwrap(),
        Some(context)
    );
    assert_eq!(provider.find::<Insight>(insight.id.as_str()).await.unwrap(), Some(insight));
    let failure = failure();
    provider.store(std::slice::from_ref(&failure)).await.unwrap();
    assert_eq!(provider.find::<Failure>(failure.id.as_str()).await.unwrap(), Some(failure));
}

/// An id that was never put is `Ok(None)`.
pub async fn a_missing_document_is_none(provider: &dyn DocumentProvider) {
    assert_eq!(provider.find::<EventContext>(EventId::from(Uuid::new_v4()).as_str()).await.unwrap(), None);
    assert_eq!(provider.find::<Insight>(InsightId::from(Uuid::new_v4()).as_str()).await.unwrap(), None);
    assert_eq!(provider.find::<Failure>(FailureId::from(Uuid::new_v4()).as_str()).await.unwrap(), None);
}

/// A document put under an id that exists replaces the old one.
pub async fn a_put_replaces(provider: &dyn DocumentProvider) {
    let mut context = event_context();
    provider.store(std::slice::from_ref(&context)).await.unwrap();
    context.data = KeyValuePairs::from_iter([("only", "this")]);
    context.files.clear();
    context.blobs.clear();
    provider.store(std::slice::from_ref(&context)).await.unwrap();
    assert_eq!(
        provider.find::<EventContext>(context.context.event_id.as_str()).await.unwrap(),
        Some(context)
    );

    let mut insight = insight();
    provider.store(std::slice::from_ref(&insight)).await.unwrap();
    insight.data = KeyValuePairs::default();
    provider.store(std::slice::from_ref(&insight)).await.unwrap();
    assert_eq!(provider.find::<Insight>(insight.id.as_str()).await.unwrap(), Some(insight));
}

/// Ids that look alike are different ids, and so are those whose last byte of 128 differs.
pub async fn ids_do_not_collide(provider: &dyn DocumentProvider) {
    let unique = Uuid::new_v4();
    let ids = ["x", "X", "x.json", "x_", "x-", "x%20", "x%", "x y", "x'y", "\u{e9}", "e\u{301}"];
    let long = ["a", "b"].map(|last| format!("{unique}{}{last}", "0".repeat(127 - 36)));
    let ids: Vec<String> = ids.iter().map(|id| format!("{unique}{id}")).chain(long).collect();
    let content = |id: &String| json!({ "text": id });
    let documents: Vec<_> = ids.iter().map(|id| raw(id, &content(id))).collect();
    provider.put(Kind::Insight, &documents).await.unwrap();
    for id in &ids {
        assert_eq!(get(provider, Kind::Insight, id, &content(id)).await, Some(content(id)));
    }
}

/// Equal ids of documents of different kinds do not meet, whatever is done to one of them.
pub async fn the_kinds_are_sets_of_their_own(provider: &dyn DocumentProvider) {
    let id = Uuid::new_v4().to_string();
    let content = |kind: Kind| json!({ "text": kind.name() });
    for kind in Kind::ALL {
        assert_eq!(provider.get(kind, &id).await.unwrap(), None);
        let stored = raw(&id, &content(kind));
        if kind == Kind::Context {
            provider.put(kind, &[stored]).await.unwrap();
        } else {
            let inserted = provider.insert(kind, &stored).await.unwrap();
            assert_eq!(common(&inserted, &content(kind)), content(kind));
        }
    }
    for kind in Kind::ALL {
        assert_eq!(get(provider, kind, &id, &content(kind)).await, Some(content(kind)));
        provider.delete(kind, std::slice::from_ref(&id)).await.unwrap();
        assert_eq!(provider.get(kind, &id).await.unwrap(), None);
    }
}

/// A thousand documents fit into one call.
pub async fn many_in_one_call(provider: &dyn DocumentProvider) {
    let contexts: Vec<EventContext> = (0..1000).map(|_| event_context()).collect();
    provider.store(&contexts).await.unwrap();
    for context in [&contexts[0], &contexts[500], &contexts[999]] {
        assert_eq!(
            provider.find::<EventContext>(context.context.event_id.as_str()).await.unwrap().as_ref(),
            Some(context)
        );
    }
}

/// Calls may run side by side.
pub async fn many_at_once(provider: &dyn DocumentProvider) {
    let contexts: Vec<EventContext> = (0..64).map(|_| event_context()).collect();
    let stored = join_all(contexts.iter().map(|context| provider.store(std::slice::from_ref(context)))).await;
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    let id = |context: &EventContext| context.context.event_id.to_string();
    let found =
        join_all(contexts.iter().map(async |context| provider.find(&id(context)).await.unwrap())).await;
    assert_eq!(found, contexts.into_iter().map(Some).collect::<Vec<_>>());
}

/// An empty slice is no error.
pub async fn none_in_one_call(provider: &dyn DocumentProvider) {
    provider.put(Kind::Context, &[]).await.unwrap();
    provider.delete(Kind::Context, &[]).await.unwrap();
}

/// `insert` stores what is not there, and gives back what is.
pub async fn an_insert_never_replaces(provider: &dyn DocumentProvider) {
    let first = failure();
    assert_eq!(provider.decide(&first).await.unwrap(), first);
    let second = Failure { reason: "another".into(), ..first.clone() };
    assert_eq!(provider.decide(&second).await.unwrap(), first);
    assert_eq!(provider.find::<Failure>(first.id.as_str()).await.unwrap(), Some(first));
    let put = failure();
    provider.store(std::slice::from_ref(&put)).await.unwrap();
    assert_eq!(provider.decide(&Failure { reason: "another".into(), ..put.clone() }).await.unwrap(), put);
}

/// However many clients insert under one id at once, all of them get the same document.
pub async fn one_insert_of_many_decides(provider: &dyn DocumentProvider) {
    for _ in 0..200 {
        one_decides(&[provider]).await;
    }
}

/// 32 clients insert at once, through each of the providers in turn.
async fn one_decides(providers: &[&dyn DocumentProvider]) {
    let id = FailureId::from(Uuid::new_v4());
    let clients =
        (0..32).map(|client| Failure { id: id.clone(), reason: format!("client {client}"), ..failure() });
    let clients: Vec<Failure> = clients.collect();
    let inserts =
        clients.iter().zip(providers.iter().cycle()).map(|(client, provider)| provider.decide(client));
    let stored: Vec<Failure> = join_all(inserts).await.into_iter().map(Result::unwrap).collect();
    assert!(clients.contains(&stored[0]));
    assert!(stored.iter().all(|other| *other == stored[0]));
    for provider in providers {
        assert_eq!(provider.find::<Failure>(id.as_str()).await.unwrap().as_ref(), Some(&stored[0]));
    }
}

/// Every document of a kind, page by page; each page is told before the next is asked for.
async fn list(
    provider: &dyn DocumentProvider,
    kind: Kind,
    mut page_is_read: impl AsyncFnMut(&[(String, String)]),
) -> BTreeMap<String, Value> {
    let (mut found, mut after) = (BTreeMap::new(), None::<String>);
    loop {
        let page = provider.list(kind, after.as_deref()).await.unwrap();
        assert!(page.len() <= PAGE);
        page_is_read(&page).await;
        let Some((last, _)) = page.last() else { return found };
        after = Some(last.clone());
        for (id, json) in page {
            let document = serde_json::from_str(&json).unwrap();
            assert_eq!(found.insert(id.clone(), document), None, "{id} is listed twice");
        }
    }
}

/// Page by page, `list` gives every document of its kind once, and none of another.
pub async fn every_document_is_listed(provider: &dyn DocumentProvider) {
    let many: Vec<Insight> = (0..PAGE + 50).map(|_| insight()).collect();
    provider.store(&many).await.unwrap();
    provider.store(&many[..3]).await.unwrap();
    let other = failure();
    provider.store(std::slice::from_ref(&other)).await.unwrap();
    let found = list(provider, Kind::Insight, async |_| {}).await;
    for document in many {
        let found: Insight = serde_json::from_value(found[document.id.as_str()].clone()).unwrap();
        assert_eq!(found, document);
    }
    assert!(!found.contains_key(other.id.as_str()));
    assert!(list(provider, Kind::Failure, async |_| {}).await.contains_key(other.id.as_str()));
}

/// `list_graph` gives every document of one correlation id once, page by page, and none of another.
pub async fn a_graph_is_listed(provider: &dyn DocumentProvider) {
    let graph = Uuid::new_v4().to_string();
    let of = |correlation_id: &str, context: EventContext| {
        let correlation_id = correlation_id.to_owned();
        EventContext { context: EventHeader { correlation_id, ..context.context }, ..context }
    };
    let many: Vec<_> = (0..PAGE + 50).map(|_| of(&graph, event_context())).collect();
    provider.store(&many).await.unwrap();
    provider.store(&many[..3]).await.unwrap();
    // One that begins in the same way, one that a path would take for its parent, and others.
    let odd = [format!("{graph}x"), format!("{graph}/.."), "größer als".into(), "x".repeat(2000), ".".into()];
    let others: Vec<_> = odd.iter().map(|id| of(id, event_context())).collect();
    provider.store(&others).await.unwrap();
    let other_kind =
        Failure { context: Context { correlation_id: graph.clone(), ..failure().context }, ..failure() };
    provider.decide(&other_kind).await.unwrap();
    let found: Vec<EventContext> = provider.graph(&graph).await.unwrap();
    let ids = |contexts: &[EventContext]| {
        let mut ids: Vec<_> = contexts.iter().map(|context| context.context.event_id.to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&found), ids(&many));
    assert!(found.iter().all(|context| many.contains(context)));
    for (id, context) in odd.iter().zip(&others) {
        assert!(provider.graph::<EventContext>(id).await.unwrap().contains(context), "{id:?}");
    }
    assert_eq!(provider.graph::<Failure>(&graph).await.unwrap(), [other_kind]);
    assert!(provider.graph::<EventContext>("no such graph").await.unwrap().is_empty());
    provider.delete(Kind::Context, &ids(&many)[..PAGE + 10]).await.unwrap();
    assert_eq!(provider.graph::<EventContext>(&graph).await.unwrap().len(), 40);
}

/// What is deleted between two pages hides none of the documents that follow.
pub async fn a_listing_survives_deletions(provider: &dyn DocumentProvider) {
    // No other test stores parts of an outbox in so many.
    let ours: Vec<String> = (0..PAGE + 50).map(|_| Uuid::new_v4().to_string()).collect();
    let documents: Vec<_> = ours.iter().map(|id| raw(id, &json!({}))).collect();
    provider.put(Kind::Outbox, &documents).await.unwrap();
    let delete = async |page: &[(String, String)]| {
        let ids = page.iter().map(|(id, _)| id.clone()).filter(|id| ours.contains(id));
        provider.delete(Kind::Outbox, &ids.collect::<Vec<_>>()).await.unwrap();
    };
    let found = list(provider, Kind::Outbox, delete).await;
    assert!(ours.iter().all(|id| found.contains_key(id)));
    let left = list(provider, Kind::Outbox, async |_| {}).await;
    assert!(!ours.iter().any(|id| left.contains_key(id)));
}

/// A document that was deleted is gone, and the others are not; deleting again is no error.
pub async fn what_is_deleted_is_gone(provider: &dyn DocumentProvider) {
    let documents = [insight(), insight(), insight()];
    provider.store(&documents).await.unwrap();
    let ids: Vec<String> = documents[..2].iter().map(|document| document.id.to_string()).collect();
    for _ in 0..2 {
        provider.delete(Kind::Insight, &ids).await.unwrap();
    }
    for id in &ids {
        assert_eq!(provider.find::<Insight>(id).await.unwrap(), None);
    }
    assert_eq!(
        provider.find::<Insight>(documents[2].id.as_str()).await.unwrap().as_ref(),
        Some(&documents[2])
    );
    provider.delete(Kind::Failure, &[documents[2].id.to_string()]).await.unwrap();
    assert!(provider.find::<Insight>(documents[2].id.as_str()).await.unwrap().is_some());
}

/// Whatever a JSON object holds is read back as it was: the types of numbers, nested and empty values, odd names.
pub async fn any_object_comes_back(provider: &dyn DocumentProvider) {
    let content = json!({
        "small": 0, "negative": -7, "large": i64::MAX, "fraction": 0.5, "tiny": 1e-300,
        "true": true, "null": null, "empty": "", "list": [3, 1, 2, 1, [], {}, [null]],
        "object": {"a": {"b": {"c": []}}}, "a.b": "dot", "$set": {"$gt": 1}, "correlationId": ["c"],
        "gr\u{f6}\u{df}e \u{1F980}": "\u{7f}\u{1}\u{2028}", " ": "blank",
    });
    let id = Uuid::new_v4().to_string();
    assert_eq!(provider.refuses(&raw(&id, &content)), None);
    provider.put(Kind::Insight, &[raw(&id, &content)]).await.unwrap();
    assert_eq!(get(provider, Kind::Insight, &id, &content).await, Some(content.clone()));
    let stored = provider.insert(Kind::Failure, &raw(&id, &content)).await.unwrap();
    assert_eq!(common(&stored, &content), content);
    assert_eq!(get(provider, Kind::Failure, &id, &content).await, Some(content));
}

/// A document that `refuses` has nothing against can be stored: large ones, deep ones, and those that are not only data
/// to one store or another. No other test has a document that it may refuse.
pub async fn what_is_not_refused_is_stored(provider: &dyn DocumentProvider) {
    let deep = (0..60).fold(json!([]), |inner, _| json!({ "in": inner }));
    let texts = ["\0", "a\0b", "\\u0000", "\u{ffff}", "\u{10ffff}"].map(|text| json!({ "text": text }));
    let large = [1 << 20, 4 << 20].map(|length| json!({ "text": "x".repeat(length) }));
    let fields =
        [json!({"_id": "mine"}), json!({"id": 7}), json!({"kind": "k"}), json!({"correlationId": null})];
    let special = [json!({"$numberLong": "5"}), json!({"$oid": "507f1f77bcf86cd799439011"}), json!(u64::MAX)];
    let special = special.map(|value| json!({ "value": value }));
    for content in texts.into_iter().chain([deep]).chain(large).chain(fields).chain(special) {
        let document = raw(Uuid::new_v4().to_string(), &content);
        if provider.refuses(&document).is_none() {
            provider.put(Kind::Insight, std::slice::from_ref(&document)).await.unwrap();
            assert!(get(provider, Kind::Insight, &document.id, &content).await == Some(content));
        }
    }
}

/// Large documents pass: a mebibyte and what JSON adds to it.
pub async fn a_large_document_comes_back(provider: &dyn DocumentProvider) {
    let mut document = insight();
    document.data = (0..16).map(|i| (i.to_string(), "x".repeat(64 * 1024))).collect();
    provider.store(std::slice::from_ref(&document)).await.unwrap();
    assert_eq!(provider.find::<Insight>(document.id.as_str()).await.unwrap(), Some(document));
}

/// Keys and values are only ever data.
pub async fn hostile_values_survive(provider: &dyn DocumentProvider) {
    let mut context = event_context();
    context.data = HOSTILE.iter().flat_map(|text| [(*text, "v"), ("k", *text)]).collect();
    context.context.correlation_id = HOSTILE.join("|");
    assert_eq!(provider.cannot_take(&context).unwrap(), None);
    provider.store(std::slice::from_ref(&context)).await.unwrap();
    assert_eq!(
        provider.find::<EventContext>(context.context.event_id.as_str()).await.unwrap(),
        Some(context)
    );
}

/// A store that works passes the check, however many make it at once, and keeps what it has.
pub async fn checks_at_once_succeed(provider: &dyn DocumentProvider) {
    let insight = insight();
    provider.store(std::slice::from_ref(&insight)).await.unwrap();
    for check in join_all((0..8).map(|_| provider.check())).await {
        check.unwrap();
    }
    assert_eq!(provider.find::<Insight>(insight.id.as_str()).await.unwrap(), Some(insight));
}

/// Where it says that it keeps data on this machine, there is a directory.
pub async fn the_directories_are_there(provider: &dyn DocumentProvider) {
    assert_directories(&provider.directories());
}

/// `Display` fits into a log line, and so does the identity.
pub async fn the_display_is_short(provider: &dyn DocumentProvider) {
    assert_short(&provider.to_string());
    assert_short(&provider.id());
}

/// When a call returns, whoever else uses the store sees what it did.
pub async fn another_process_sees_what_is_stored<P: DocumentProvider, R: DocumentProvider>(
    provider: &P,
    reopen: impl AsyncFn(&P) -> R,
) {
    let other = reopen(provider).await;
    let (insight, failure) = (insight(), failure());
    provider.store(std::slice::from_ref(&insight)).await.unwrap();
    assert_eq!(other.find::<Insight>(insight.id.as_str()).await.unwrap(), Some(insight.clone()));
    let changed = Insight { data: KeyValuePairs::default(), ..insight };
    other.store(std::slice::from_ref(&changed)).await.unwrap();
    assert_eq!(provider.find::<Insight>(changed.id.as_str()).await.unwrap(), Some(changed.clone()));
    assert_eq!(provider.decide(&failure).await.unwrap(), failure);
    assert_eq!(other.find::<Failure>(failure.id.as_str()).await.unwrap(), Some(failure));
    other.delete(Kind::Insight, &[changed.id.to_string()]).await.unwrap();
    assert_eq!(provider.find::<Insight>(changed.id.as_str()).await.unwrap(), None);
}

/// What was stored before the store was opened is there.
pub async fn a_restart_forgets_nothing<P: DocumentProvider, R: DocumentProvider>(
    provider: &P,
    reopen: impl AsyncFn(&P) -> R,
) {
    let (kept, deleted, decided) = (insight(), insight(), failure());
    provider.store(&[kept.clone(), deleted.clone()]).await.unwrap();
    provider.decide(&decided).await.unwrap();
    provider.delete(Kind::Insight, &[deleted.id.to_string()]).await.unwrap();
    let restarted = reopen(provider).await;
    assert_eq!(restarted.find::<Insight>(kept.id.as_str()).await.unwrap().as_ref(), Some(&kept));
    assert_eq!(restarted.find::<Insight>(deleted.id.as_str()).await.unwrap(), None);
    let second = Failure { reason: "another".into(), ..decided.clone() };
    assert_eq!(restarted.decide(&second).await.unwrap(), decided);
    assert!(list(&restarted, Kind::Insight, async |_| {}).await.contains_key(kept.id.as_str()));
}

/// Where the store decides, clients of two processes that insert at once get the same document.
pub async fn one_insert_of_two_processes_decides<P: DocumentProvider, R: DocumentProvider>(
    provider: &P,
    reopen: impl AsyncFn(&P) -> R,
) {
    let other = reopen(provider).await;
    assert_eq!(other.decides(), provider.decides());
    if provider.decides() {
        for _ in 0..20 {
            one_decides(&[provider, &other]).await;
        }
    }
}

/// A store has the same identity in every process.
pub async fn the_id_is_stable<P: DocumentProvider, R: DocumentProvider>(
    provider: &P,
    reopen: impl AsyncFn(&P) -> R,
) {
    assert_eq!(reopen(provider).await.id(), provider.id());
}

/// A store that cannot be reached is [`Error::Unavailable`](crate::Error::Unavailable), whatever it is asked: nobody
/// may conclude that a document is not there.
pub async fn an_outage_is_unavailable(away: &dyn DocumentProvider) {
    let document = raw(Uuid::new_v4().to_string(), &json!({}));
    assert_unavailable("get", away.get(Kind::Context, &document.id).await);
    assert_unavailable("put", away.put(Kind::Context, std::slice::from_ref(&document)).await);
    assert_unavailable("insert", away.insert(Kind::Execution, &document).await);
    assert_unavailable("list", away.list(Kind::Context, None).await);
    assert_unavailable("list a graph", away.list_graph(Kind::Context, "c", None).await);
    assert_unavailable("delete", away.delete(Kind::Context, &[document.id]).await);
}

/// The check of a store that cannot be reached is [`Error::Unavailable`](crate::Error::Unavailable).
pub async fn a_check_finds_an_outage(away: &dyn DocumentProvider) {
    assert_unavailable("check", away.check().await);
}
