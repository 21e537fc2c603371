//! Listens to sluiced, and goes on where it was after every break: `SLUICED_KEY=… listen [ADDRESS [TYPES]]`.
use std::{env, error::Error, time::Duration};

/// What is known of the stream so far.
#[derive(Default)]
struct Stream {
    /// The place to go on from.
    last: Option<String>,
    rest: Vec<u8>,
    kind: String,
    data: Vec<String>,
}

impl Stream {
    /// Takes the next bytes, and shows every event that is whole.
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.rest.push(*byte);
            // sluiced ends every line with LF alone.
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned();
                self.line(line.trim_end_matches('\n'));
            }
        }
    }

    fn line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() && !self.data.is_empty() => {
                let event = serde_json::json!({ "id": self.last, "type": self.kind, "data": self.data.join("\n") });
                println!("{event}");
                self.data.clear();
            }
            // An id without data moves the place as well.
            "id" => self.last = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data.push(value.to_owned()),
            _ => {} // a heartbeat, or `retry`
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (key, mut args) = (env::var("SLUICED_KEY")?, env::args().skip(1));
    let daemon = args.next().unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let url = format!("{daemon}/api/v1/events/stream?types={}", args.next().unwrap_or_else(|| ">".to_owned()));
    // For a `reqwest` without cryptography of its own, as here. With its default features leave this line out.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "nobody else installs one")?;
    // There is a heartbeat every 15 seconds: a stream that is silent for much longer is dead.
    let client = reqwest::Client::builder().read_timeout(Duration::from_secs(60)).build()?;
    let mut stream = Stream::default();
    loop {
        let mut request = client.get(&url).bearer_auth(&key);
        if let Some(last) = &stream.last {
            request = request.header("last-event-id", last);
        }
        match request.send().await {
            Ok(mut response) if response.status() == 200 => {
                stream.rest.clear();
                stream.data.clear();
                while let Ok(Some(bytes)) = response.chunk().await {
                    stream.take(&bytes);
                }
            }
            Ok(response) if response.status().is_client_error() && response.status() != 429 => {
                return Err(format!("refused: {}", response.status()).into());
            }
            passing => eprintln!("{passing:?}, again"),
        }
        // Not all at once: anywhere between one second and two.
        let jitter_ms = u64::from(std::process::id()) % 1_000;
        tokio::time::sleep(Duration::from_millis(1_000 + jitter_ms)).await;
    }
}
