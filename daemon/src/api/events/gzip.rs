//! An event stream in gzip (RFC 1952).
//!
//! A compressor of its own would cost each client some 300 KB, and each frame its work once for each client. Here a frame is a
//! stretch of DEFLATE that refers to nothing before it and ends at a byte, so it is compressed once and shared like the frame
//! itself, and reaches the client whole at once. What a client holds is a checksum and a count. The price is that a frame finds
//! no likeness in those before it: JSON of a kilobyte shrinks to about half, short frames hardly.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Crc, FlushCompress};
use futures_util::Stream;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use parking_lot::Mutex;

/// The head of every stream: DEFLATE, no name, no time, no system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The last block, which is empty.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// Frames below this, in bytes, go as they are: heartbeats, places. They would not shrink.
const STORED_BYTES_MAX: usize = 127;
/// The most frames that are kept compressed, for the clients that have not had them yet.
const KEPT_FRAMES_MAX: usize = 64;
/// The most bytes of those, as they were and compressed.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Does the request ask for gzip? One that prefers the text as it is gets that.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity) = (0.0, None);
    let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for coding in texts.flat_map(|text| text.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = weight,
            "identity" => identity = Some(weight),
            _ => {}
        }
    }
    gzip > 0.0 && identity.is_none_or(|identity| identity <= gzip)
}

/// Compresses frames, each once for all clients that get it at about the same time. Cloning shares it.
#[derive(Clone)]
pub(super) struct Compressor(Arc<Mutex<Shared>>);

struct Shared {
    compress: Compress,
    /// Frames with what they are compressed; a frame that is held is known by where it lies.
    kept: VecDeque<(Bytes, Bytes)>,
    kept_bytes: usize,
}

impl Compressor {
    pub(super) fn new() -> Self {
        let compress = Compress::new(Compression::fast(), false);
        Self(Arc::new(Mutex::new(Shared { compress, kept: VecDeque::new(), kept_bytes: 0 })))
    }

    fn compressed(&self, frame: &Bytes) -> Bytes {
        if frame.len() <= STORED_BYTES_MAX {
            return stored(frame);
        }
        let mut shared = self.0.lock();
        let same = |held: &Bytes| held.as_ptr() == frame.as_ptr() && held.len() == frame.len();
        if let Some((_, compressed)) = shared.kept.iter().find(|(held, _)| same(held)) {
            return compressed.clone();
        }
        let compressed = shared.deflate(frame);
        shared.keep(frame.clone(), compressed.clone());
        compressed
    }
}

impl Shared {
    /// A stretch that refers to nothing before it and ends at a byte.
    fn deflate(&mut self, frame: &[u8]) -> Bytes {
        self.compress.reset();
        let mut out = Vec::with_capacity(frame.len() / 2 + 64);
        loop {
            let read = usize::try_from(self.compress.total_in()).unwrap_or(usize::MAX);
            let rest = frame.get(read..).unwrap_or_default();
            let compressed = self.compress.compress_vec(rest, &mut out, FlushCompress::Full);
            debug_assert!(compressed.is_ok(), "compressing fails only where it is misused");
            // With room left there is nothing that it still holds back.
            if out.len() < out.capacity() {
                return out.into();
            }
            out.reserve(out.capacity().max(64));
        }
    }

    fn keep(&mut self, frame: Bytes, compressed: Bytes) {
        self.kept_bytes += frame.len() + compressed.len();
        self.kept.push_back((frame, compressed));
        while self.kept.len() > KEPT_FRAMES_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            let Some((frame, compressed)) = self.kept.pop_front() else { break };
            self.kept_bytes -= frame.len() + compressed.len();
        }
    }
}

/// A block that holds the bytes as they are.
fn stored(bytes: &[u8]) -> Bytes {
    let length = u16::try_from(bytes.len()).expect("those that are stored are short");
    let mut block = BytesMut::with_capacity(bytes.len() + 5);
    block.put_u8(0);
    block.put_u16_le(length);
    block.put_u16_le(!length);
    block.put_slice(bytes);
    block.freeze()
}

/// A stream of whole frames, in gzip.
pub(super) struct Gzip<S> {
    frames: S,
    compressor: Compressor,
    crc: Crc,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Begins,
    Goes,
    Ended,
}

impl<S> Gzip<S> {
    pub(super) fn new(frames: S, compressor: Compressor) -> Self {
        Self { frames, compressor, crc: Crc::new(), state: State::Begins }
    }
}

impl<S: Stream<Item = Bytes> + Unpin> Stream for Gzip<S> {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.state == State::Begins {
            self.state = State::Goes;
            return Poll::Ready(Some(Bytes::from_static(&HEAD)));
        }
        if self.state == State::Ended {
            return Poll::Ready(None);
        }
        let Some(frame) = ready!(Pin::new(&mut self.frames).poll_next(context)) else {
            self.state = State::Ended;
            let mut tail = BytesMut::from(&LAST_BLOCK[..]);
            tail.put_u32_le(self.crc.sum());
            // Modulo 2^32, as the format has it.
            tail.put_u32_le(self.crc.amount());
            return Poll::Ready(Some(tail.freeze()));
        };
        self.crc.update(&frame);
        Poll::Ready(Some(self.compressor.compressed(&frame)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use futures_util::{StreamExt as _, stream};
    use http::HeaderValue;

    use super::*;

    fn frames() -> Vec<Bytes> {
        let json = format!("id: EVENTS:7\nevent: a.b\ndata: {{{}}}\n\n", "\"name\": \"value\", ".repeat(60));
        let noise: Vec<u8> = (0..300_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
        [
            b":\n\n".to_vec(),
            json.clone().into_bytes(),
            Vec::new(),
            noise,
            json.into_bytes(),
            b"id: EVENTS:8\n\n".to_vec(),
        ]
        .map(Bytes::from)
        .into()
    }

    #[tokio::test]
    async fn every_frame_is_there_as_soon_as_it_was_sent_and_the_whole_is_a_file() {
        let compressor = Compressor::new();
        let sent: Vec<Bytes> = Gzip::new(stream::iter(frames()), compressor).collect().await;
        let (mut wire, mut expected) = (sent[0].to_vec(), Vec::new());
        for (frame, part) in frames().iter().zip(&sent[1..]) {
            wire.extend_from_slice(part);
            expected.extend_from_slice(frame);
            let mut seen = vec![0; expected.len()];
            GzDecoder::new(&*wire).read_exact(&mut seen).expect("all that was sent can be read");
            assert!(seen == expected);
        }
        wire.extend_from_slice(sent.last().expect("a tail"));
        let mut whole = Vec::new();
        GzDecoder::new(&*wire).read_to_end(&mut whole).expect("its checksum and its length are right");
        assert!(whole == expected);
        assert!(sent[2].len() * 4 < frames()[1].len(), "{} bytes of {}", sent[2].len(), frames()[1].len());
    }

    #[test]
    fn a_frame_is_compressed_once_and_kept_within_bounds() {
        let compressor = Compressor::new();
        let frame = Bytes::from(vec![b'x'; 1_000]);
        let (one, other) = (compressor.compressed(&frame), compressor.compressed(&frame.clone()));
        assert_eq!(one.as_ptr(), other.as_ptr(), "the same bytes for all");
        let alike = Bytes::from(vec![b'x'; 1_000]);
        assert_ne!(compressor.compressed(&alike).as_ptr(), one.as_ptr(), "known by its place, not compared");
        for size in [200; 200].into_iter().chain([3 << 20; 3]) {
            compressor.compressed(&Bytes::from(vec![b'y'; size]));
            let shared = compressor.0.lock();
            let bytes: usize = shared.kept.iter().map(|(frame, compressed)| frame.len() + compressed.len()).sum();
            assert!(shared.kept.len() <= KEPT_FRAMES_MAX && bytes <= KEPT_BYTES_MAX && bytes == shared.kept_bytes);
        }
        assert!(size_of::<Gzip<()>>() <= 64, "what a client holds");
    }

    #[test]
    fn gzip_is_for_those_who_ask_for_it() {
        let asked = |texts: &[&'static str]| {
            let values = texts.iter().map(|text| (ACCEPT_ENCODING, HeaderValue::from_static(text)));
            is_asked(&values.collect())
        };
        for texts in
            [&["gzip"][..], &["gzip, deflate, br, zstd"], &["br", "x-GZIP;q=0.5"], &["gzip;q=0.5, identity;q=0.5"]]
        {
            assert!(asked(texts), "{texts:?}");
        }
        for texts in [&[][..], &["identity"], &["*"], &["br"], &["gzip;q=0"], &["gzip; q=0.2, identity"], &["gzip;q=x"]]
        {
            assert!(!asked(texts), "{texts:?}");
        }
    }
}
