//! Records of the log as JSON, one a line, for programs that collect them.

use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// One object for each record: `time`, `level` and `message`; then the fields of the record, and those of the spans
/// around it, such as `module`, `event`, `attempt` and `correlation`, all on one level.
pub(super) struct Json;

impl<S: Subscriber + for<'s> LookupSpan<'s>> FormatEvent<S, JsonFields> for Json {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut record = Map::new();
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        record.insert("time".into(), time.into());
        record.insert("level".into(), event.metadata().level().as_str().to_ascii_lowercase().into());
        event.record(&mut Fields(&mut record));
        // What the record itself says counts, and an inner span before an outer one.
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
            let Ok(fields) = serde_json::from_str::<Map<String, Value>>(&fields.fields) else { continue };
            for (name, value) in fields {
                record.entry(name).or_insert(value);
            }
        }
        let text = serde_json::to_string(&record).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

struct Fields<'r>(&'r mut Map<String, Value>);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        // A raw identifier is written as the word that it stands for.
        let name = field.name().trim_start_matches("r#");
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}
