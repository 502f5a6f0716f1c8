//! The log events of a process.

use std::collections::BTreeMap;
use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A subscriber that passes each event of lockmesh to a function.
pub(crate) struct Events<F>(pub(crate) F);

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Subscriber for Events<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("lockmesh")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.0(event);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

pub(crate) type Fields = BTreeMap<&'static str, String>;

/// Returns the fields of an event as text, without quotes.
pub(crate) fn fields(event: &Event<'_>) -> Fields {
    struct Texts(Fields);
    impl Visit for Texts {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            let text = format!("{value:?}").trim_matches('"').to_owned();
            self.0.insert(field.name(), text);
        }
    }
    let mut texts = Texts(Fields::new());
    event.record(&mut texts);
    texts.0
}
