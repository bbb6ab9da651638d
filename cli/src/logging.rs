//! Log lines of the long-running parts: to stderr, bounded by `WEFT_LOG` (or `RUST_LOG`), JSON when `WEFT_LOG_FORMAT=json`.

use tracing_subscriber::EnvFilter;

/// Starts logging; does nothing if it has been started.
pub fn start() {
    let filter = ["WEFT_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    let _ = match std::env::var("WEFT_LOG_FORMAT").as_deref() {
        Ok("json") => builder.json().try_init(),
        _ => builder.try_init(),
    };
}
