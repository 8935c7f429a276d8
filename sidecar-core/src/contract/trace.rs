//! Trace context of the W3C (<https://www.w3.org/TR/trace-context/>): which span of which trace something belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// A `traceparent`: the ids of a trace and of the span in it that caused what carries this.
///
/// ```
/// use sidecar_core::TraceParent;
/// let parent: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
/// assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert!("00-00000000000000000000000000000000-00f067aa0ba902b7-01".parse::<TraceParent>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct TraceParent(String);

/// The parts of version 00: version, trace, span, flags.
const LENGTHS: [usize; 4] = [2, 32, 16, 2];
/// How long they are together, with the hyphens between them.
const LENGTH: usize = 55;

impl TraceParent {
    /// The text of the header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the trace: 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.part(1)
    }

    /// The id of the span: 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        self.part(2)
    }

    /// Whether whoever wrote it has recorded its span.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(self.part(3), 16).is_ok_and(|flags| flags & 1 == 1)
    }

    fn part(&self, n: usize) -> &str {
        self.0.split('-').nth(n).unwrap_or_default()
    }

    /// For a field that must not make a document unreadable: what is none is absent.
    pub(super) fn lenient<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.and_then(|text| text.parse().ok()))
    }
}

impl FromStr for TraceParent {
    type Err = String;

    /// Of a version that is younger than 00, what it has in common with that counts.
    fn from_str(text: &str) -> Result<Self, String> {
        let why = || format!("{text:?} is no traceparent, such as 00-(32 digits)-(16 digits)-01");
        let known = text.get(..LENGTH).ok_or_else(why)?;
        let is_cut = |rest: &str| rest.is_empty() || !known.starts_with("00") && rest.starts_with('-');
        let parts: Vec<&str> = known.split('-').collect();
        let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
        match *parts {
            [version, trace, span, flags]
                if [version, trace, span, flags].map(str::len) == LENGTHS
                    && [version, trace, span, flags].into_iter().all(is_hex)
                    && version != "ff"
                    && !is_zero(trace)
                    && !is_zero(span)
                    && is_cut(&text[LENGTH..]) =>
            {
                Ok(Self(format!("00-{trace}-{span}-{flags}")))
            }
            _ => Err(why()),
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_specification_calls_valid_is_taken_and_nothing_else() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (text, valid) in [
            (format!("00-{trace}-00f067aa0ba902b7-01"), true),
            (format!("00-{trace}-00f067aa0ba902b7-00"), true),
            (format!("cc-{trace}-00f067aa0ba902b7-01-what-comes-later"), true),
            (format!("cc-{trace}-00f067aa0ba902b7-01.what-comes-later"), false),
            (format!("00-{trace}-00f067aa0ba902b7-01-more"), false),
            (format!("ff-{trace}-00f067aa0ba902b7-01"), false),
            (format!("00-{trace}-0000000000000000-01"), false),
            (format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()), false),
            (format!("00-{trace}-00f067aa0ba902b7"), false),
            (format!("00-{trace}-00f067aa0ba902b7-0é"), false),
            (String::new(), false),
        ] {
            assert_eq!(text.parse::<TraceParent>().is_ok(), valid, "{text}");
        }
        let parent: TraceParent = format!("00-{trace}-00f067aa0ba902b7-03").parse().unwrap();
        assert!(parent.is_sampled() && parent.span_id() == "00f067aa0ba902b7");
    }
}
