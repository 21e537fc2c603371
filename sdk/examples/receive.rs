//! A receiver of webhooks that takes only what was signed: `WEBHOOK_SECRETS="whsec_…" receive [PORT]`.
use std::{collections::HashSet, env, error::Error, sync::Arc, sync::Mutex};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use sluiced_sdk::verify::Verifier;

struct Receiver {
    verifier: Verifier,
    /// The ids that were taken; in earnest a table beside what the events do.
    taken: Mutex<HashSet<String>>,
}

async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let id = match receiver.verifier.verify(header, &body) {
        Ok(verified) => verified.id,
        Err(error) => {
            println!("refused: {error}");
            return StatusCode::BAD_REQUEST;
        }
    };
    if receiver.taken.lock().expect("nothing panics while it holds the lock").insert(id.to_owned()) {
        println!(
            "received {id} {} {}",
            header("sluiced-event-type").unwrap_or_default(),
            String::from_utf8_lossy(&body)
        );
    } else {
        println!("repeated {id}");
    }
    StatusCode::NO_CONTENT
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let verifier = Verifier::new(&env::var("WEBHOOK_SECRETS")?)?;
    let port: u16 = env::args().nth(1).map_or(Ok(8000), |port| port.parse())?;
    let receiver = Arc::new(Receiver { verifier, taken: Mutex::default() });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, Router::new().fallback(post(receive)).with_state(receiver)).await?)
}
