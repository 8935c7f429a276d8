//! The guarantees of [`DocumentProvider`].

use uuid::Uuid;

use crate::{
    Blob, BlobKey, Context, Culprit, Digest, DocumentProvider, EventContext, EventId, Failure, FailureId,
    FileName, Insight, InsightId, KeyValuePairs, Lineage, ModuleName, Phase,
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
        context: Lineage {
            name: String::new(),
            event_id: id.clone(),
            correlation_id: Uuid::new_v4().to_string(),
            parent_event_id: Uuid::new_v4().to_string(),
        },
        files: vec![name.clone()],
        data: KeyValuePairs::from_iter([("b", "2"), ("a", "1"), ("b", "2"), ("b", "1")]),
        blobs: vec![Blob {
            key: BlobKey::new(&id, &ModuleName::parse("m").unwrap(), &name).unwrap(),
            name,
            size: u64::from(u32::MAX) + 7,
            digest: Digest([0xc3; 32]),
            executable: true,
        }],
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
    provider.put_event_contexts(std::slice::from_ref(&context)).await.unwrap();
    provider.put_insight(&insight).await.unwrap();
    assert_eq!(provider.event_context(&context.context.event_id).await.unwrap(), Some(context));
    assert_eq!(provider.insight(&insight.id).await.unwrap(), Some(insight));
    let failure = failure();
    provider.put_failure(&failure).await.unwrap();
    assert_eq!(provider.failure(&failure.id).await.unwrap(), Some(failure));
}

/// An id that was never put is `Ok(None)`.
pub async fn a_missing_document_is_none(provider: &dyn DocumentProvider) {
    assert_eq!(provider.event_context(&EventId::from(Uuid::new_v4())).await.unwrap(), None);
    assert_eq!(provider.insight(&InsightId::from(Uuid::new_v4())).await.unwrap(), None);
    assert_eq!(provider.failure(&FailureId::from(Uuid::new_v4())).await.unwrap(), None);
}

/// A document put under an id that exists replaces the old one.
pub async fn a_put_replaces(provider: &dyn DocumentProvider) {
    let mut context = event_context();
    provider.put_event_contexts(std::slice::from_ref(&context)).await.unwrap();
    context.data = KeyValuePairs::from_iter([("only", "this")]);
    context.files.clear();
    context.blobs.clear();
    provider.put_event_contexts(std::slice::from_ref(&context)).await.unwrap();
    assert_eq!(provider.event_context(&context.context.event_id).await.unwrap(), Some(context));

    let mut insight = insight();
    provider.put_insight(&insight).await.unwrap();
    insight.data = KeyValuePairs::default();
    provider.put_insight(&insight).await.unwrap();
    assert_eq!(provider.insight(&insight.id).await.unwrap(), Some(insight));
}

/// Equal ids of documents of different kinds do not meet.
pub async fn the_kinds_are_sets_of_their_own(provider: &dyn DocumentProvider) {
    let (context, mut insight) = (event_context(), insight());
    insight.id = InsightId::parse(context.context.event_id.as_str()).unwrap();
    provider.put_event_contexts(std::slice::from_ref(&context)).await.unwrap();
    assert_eq!(provider.insight(&insight.id).await.unwrap(), None);
    provider.put_insight(&insight).await.unwrap();
    let mut failure = failure();
    failure.id = FailureId::parse(insight.id.as_str()).unwrap();
    assert_eq!(provider.failure(&failure.id).await.unwrap(), None);
    provider.put_failure(&failure).await.unwrap();
    assert_eq!(provider.event_context(&context.context.event_id).await.unwrap(), Some(context));
    assert_eq!(provider.insight(&insight.id).await.unwrap(), Some(insight));
    assert_eq!(provider.failure(&failure.id).await.unwrap(), Some(failure));
}

/// A thousand documents fit into one call.
pub async fn many_in_one_call(provider: &dyn DocumentProvider) {
    let contexts: Vec<EventContext> = (0..1000).map(|_| event_context()).collect();
    provider.put_event_contexts(&contexts).await.unwrap();
    for context in [&contexts[0], &contexts[500], &contexts[999]] {
        assert_eq!(provider.event_context(&context.context.event_id).await.unwrap().as_ref(), Some(context));
    }
}

/// An empty slice is no error.
pub async fn none_in_one_call(provider: &dyn DocumentProvider) {
    provider.put_event_contexts(&[]).await.unwrap();
}

/// Keys and values are only ever data.
pub async fn hostile_values_survive(provider: &dyn DocumentProvider) {
    let mut context = event_context();
    context.data = HOSTILE.iter().flat_map(|text| [(*text, "v"), ("k", *text)]).collect();
    context.context.correlation_id = HOSTILE.join("|");
    provider.put_event_contexts(std::slice::from_ref(&context)).await.unwrap();
    assert_eq!(provider.event_context(&context.context.event_id).await.unwrap(), Some(context));
}
