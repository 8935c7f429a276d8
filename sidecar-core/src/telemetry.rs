//! Spans for a tracing system, and how a trace goes on from one process to the next.
//!
//! Whoever installs a layer of tracing-opentelemetry gets them with the feature `otel`. Without one, or without the
//! feature, a trace that came with an event is passed on as it came.

use tracing::Span;

use crate::contract::TraceParent;

/// The target of spans that no log shows; they cost nothing where nobody records them.
pub const SPANS: &str = "otel";

/// A span of one step, for tracing systems alone.
macro_rules! step {
    (parent: $parent:expr, $($field:tt)*) => {
        tracing::info_span!(target: $crate::telemetry::SPANS, parent: $parent, $($field)*)
    };
    ($($field:tt)*) => { tracing::info_span!(target: $crate::telemetry::SPANS, $($field)*) };
}
pub(crate) use step;

/// The identity of a span, for those who continue its trace.
pub(crate) fn traceparent(span: &Span) -> Option<TraceParent> {
    otel::traceparent(span)
}

/// Makes a span, of which nothing is known yet, the child of one that may be on another machine, unless the caller has
/// one of its own.
pub(crate) fn continues(span: &Span, parent: Option<&TraceParent>) {
    if Span::current().is_none()
        && let Some(parent) = parent
    {
        otel::continues(span, parent);
    }
}

/// Says that a span comes after another one for the same cause.
#[cfg(feature = "worker")]
pub(crate) fn follows(span: &Span, earlier: &TraceParent) {
    otel::follows(span, earlier);
}

/// Adds an attribute that is in no log.
pub(crate) fn attribute(span: &Span, name: &'static str, value: &str) {
    otel::attribute(span, name, value);
}

/// Says that what a span stands for has failed.
pub(crate) fn failed(span: &Span, why: &str) {
    otel::failed(span, why);
}

/// Writes the trace into the field `trace_id` of a span of the log.
pub(crate) fn name_trace(span: &Span, parent: Option<TraceParent>) {
    if let Some(parent) = parent {
        span.record("trace_id", parent.trace_id());
    }
}

#[cfg(feature = "otel")]
mod otel {
    use opentelemetry::Context;
    use opentelemetry::trace::{
        SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    };
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use crate::contract::TraceParent;

    pub(super) fn traceparent(span: &Span) -> Option<TraceParent> {
        let context = span.context();
        let context = context.span().span_context().clone();
        if !context.is_valid() {
            return None;
        }
        let flags = context.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()).parse().ok()
    }

    pub(super) fn continues(span: &Span, parent: &TraceParent) {
        if let Some(parent) = remote(parent) {
            // Where nobody records it there is nothing to continue.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent));
        }
    }

    pub(super) fn attribute(span: &Span, name: &'static str, value: &str) {
        span.set_attribute(name, value.to_owned());
    }

    pub(super) fn failed(span: &Span, why: &str) {
        span.set_status(Status::error(why.to_owned()));
    }

    #[cfg(feature = "worker")]
    pub(super) fn follows(span: &Span, earlier: &TraceParent) {
        if let Some(earlier) = remote(earlier) {
            span.add_link(earlier);
        }
    }

    fn remote(parent: &TraceParent) -> Option<SpanContext> {
        let flags = if parent.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        let trace = TraceId::from_hex(parent.trace_id()).ok()?;
        let span = SpanId::from_hex(parent.span_id()).ok()?;
        Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
    }
}

#[cfg(not(feature = "otel"))]
mod otel {
    use tracing::Span;

    use crate::contract::TraceParent;

    pub(super) fn traceparent(_: &Span) -> Option<TraceParent> {
        None
    }

    pub(super) fn continues(_: &Span, _: &TraceParent) {}

    pub(super) fn attribute(_: &Span, _: &'static str, _: &str) {}

    pub(super) fn failed(_: &Span, _: &str) {}

    #[cfg(feature = "worker")]
    pub(super) fn follows(_: &Span, _: &TraceParent) {}
}
