//! The guarantees of [`DocumentProvider`].

use uuid::Uuid;

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
        event_type: None,
        producer: Some(Producer {
            name: ModuleName::parse("m").unwrap(),
            run: 7,
            proposal: PrivateId::random(),
        }),
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

/// Equal ids of documents of different kinds do not meet.
pub async fn the_kinds_are_sets_of_their_own(provider: &dyn DocumentProvider) {
    let (context, mut insight) = (event_context(), insight());
    insight.id = InsightId::parse(context.context.event_id.as_str()).unwrap();
    provider.store(std::slice::from_ref(&context)).await.unwrap();
    assert_eq!(provider.find::<Insight>(insight.id.as_str()).await.unwrap(), None);
    provider.store(std::slice::from_ref(&insight)).await.unwrap();
    let mut failure = failure();
    failure.id = FailureId::parse(insight.id.as_str()).unwrap();
    assert_eq!(provider.find::<Failure>(failure.id.as_str()).await.unwrap(), None);
    provider.store(std::slice::from_ref(&failure)).await.unwrap();
    assert_eq!(
        provider.find::<EventContext>(context.context.event_id.as_str()).await.unwrap(),
        Some(context)
    );
    assert_eq!(provider.find::<Insight>(insight.id.as_str()).await.unwrap(), Some(insight));
    assert_eq!(provider.find::<Failure>(failure.id.as_str()).await.unwrap(), Some(failure));
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

/// An empty slice is no error.
pub async fn none_in_one_call(provider: &dyn DocumentProvider) {
    provider.store::<EventContext>(&[]).await.unwrap();
}

/// `insert` stores what is not there, and gives back what is.
pub async fn an_insert_never_replaces(provider: &dyn DocumentProvider) {
    let first = failure();
    assert_eq!(provider.decide(&first).await.unwrap(), first);
    let second = Failure { reason: "another".into(), ..first.clone() };
    assert_eq!(provider.decide(&second).await.unwrap(), first);
    assert_eq!(provider.find::<Failure>(first.id.as_str()).await.unwrap(), Some(first));
}

/// However many clients insert under one id at once, all of them get the same document.
pub async fn one_insert_of_many_decides(provider: &dyn DocumentProvider) {
    for _ in 0..10 {
        let id = FailureId::from(Uuid::new_v4());
        let clients =
            (0..32).map(|client| Failure { id: id.clone(), reason: format!("client {client}"), ..failure() });
        let clients: Vec<Failure> = clients.collect();
        let stored =
            futures_util::future::join_all(clients.iter().map(|client| provider.decide(client))).await;
        let stored: Vec<Failure> = stored.into_iter().map(Result::unwrap).collect();
        assert!(clients.contains(&stored[0]));
        assert!(stored.iter().all(|other| *other == stored[0]));
        assert_eq!(provider.find::<Failure>(id.as_str()).await.unwrap().as_ref(), Some(&stored[0]));
    }
}

/// Page by page, `list` gives every document of its kind once, and none of another.
pub async fn every_document_is_listed(provider: &dyn DocumentProvider) {
    let many: Vec<Insight> = (0..PAGE + 50).map(|_| insight()).collect();
    provider.store(&many).await.unwrap();
    let other = failure();
    provider.store(std::slice::from_ref(&other)).await.unwrap();
    let (mut found, mut after) = (std::collections::BTreeMap::new(), None::<String>);
    loop {
        let page = provider.page::<Insight>(after.as_deref()).await.unwrap();
        assert!(page.len() <= PAGE);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (id, document) in page {
            assert_eq!(found.insert(id.clone(), document), None, "{id} is listed twice");
        }
    }
    for document in many {
        assert_eq!(found.get(document.id.as_str()), Some(&document));
    }
    assert!(!found.contains_key(other.id.as_str()));
}

/// A document that was deleted is gone, and the others are not; deleting again is no error.
pub async fn what_is_deleted_is_gone(provider: &dyn DocumentProvider) {
    let documents = [insight(), insight(), insight()];
    provider.store(&documents).await.unwrap();
    let ids: Vec<String> = documents[..2].iter().map(|document| document.id.to_string()).collect();
    for _ in 0..2 {
        provider.delete(Kind::Insight, &ids).await.unwrap();
    }
    assert_eq!(provider.find::<Insight>(&ids[0]).await.unwrap(), None);
    assert_eq!(
        provider.find::<Insight>(documents[2].id.as_str()).await.unwrap().as_ref(),
        Some(&documents[2])
    );
    provider.delete(Kind::Failure, &[documents[2].id.to_string()]).await.unwrap();
    assert!(provider.find::<Insight>(documents[2].id.as_str()).await.unwrap().is_some());
}

/// Large documents pass: a mebibyte and what JSON adds to it.
pub async fn a_large_document_comes_back(provider: &dyn DocumentProvider) {
    let mut document = insight();
    document.data = (0..16).map(|i| (i.to_string(), "x".repeat(64 * 1024))).collect();
    let json = serde_json::to_string(&document).unwrap();
    let (id, correlation_id) = (document.id.to_string(), String::new());
    provider.put(Kind::Insight, &[Document { id: id.clone(), correlation_id, json }]).await.unwrap();
    assert_eq!(provider.find::<Insight>(&id).await.unwrap(), Some(document));
}

/// Keys and values are only ever data.
pub async fn hostile_values_survive(provider: &dyn DocumentProvider) {
    let mut context = event_context();
    context.data = HOSTILE.iter().flat_map(|text| [(*text, "v"), ("k", *text)]).collect();
    context.context.correlation_id = HOSTILE.join("|");
    provider.store(std::slice::from_ref(&context)).await.unwrap();
    assert_eq!(
        provider.find::<EventContext>(context.context.event_id.as_str()).await.unwrap(),
        Some(context)
    );
}
