//! Where our own words go: the journal with its fields, or standard error where there is none.

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// What is said with this target has the journal's priority "alert": somebody must come and look.
pub const ALERT: &str = "godebug::alert";

/// Starts logging for the whole process. `GODEBUG_LOG` chooses levels, as `RUST_LOG` does.
pub fn start() {
    let filter = EnvFilter::try_from_env("GODEBUG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = Registry::default().with(filter);
    match (tracing_journald::layer(), tracing_journald::layer()) {
        (Ok(ordinary), Ok(alerts)) => {
            // Levels end at ERROR, which is the journal's 3, so what is worse needs a layer of its
            // own. No prefix: MESSAGE_ID= and GODEBUG_SESSION= are what people search for.
            let alert = PriorityMappings { error: Priority::Alert, ..PriorityMappings::new() };
            let alerts = alerts.with_field_prefix(None).with_priority_mappings(alert);
            let ordinary = ordinary.with_field_prefix(None);
            registry
                .with(ordinary.with_filter(filter_fn(|event| event.target() != ALERT)))
                .with(alerts.with_filter(filter_fn(|event| event.target() == ALERT)))
                .init()
        }
        _ => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init(),
    }
}
