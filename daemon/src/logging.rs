//! Where our own words go: the journal with its fields, or standard error where there is none.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// Starts logging for the whole process. `GODEBUG_LOG` chooses levels, as `RUST_LOG` does.
pub fn start() {
    let filter = EnvFilter::try_from_env("GODEBUG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = Registry::default().with(filter);
    match tracing_journald::layer() {
        // No prefix: MESSAGE_ID= and GODEBUG_SESSION= are what people search for.
        Ok(journal) => registry.with(journal.with_field_prefix(None)).init(),
        Err(_) => {
            registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init()
        }
    }
}
