// SPDX-License-Identifier: GPL-2.0

//! Byte streams to the outside: the console, the agent's stream and the control stream.
//!
//! A path is either a character device that exists (`/dev/virtio-ports/...`), or the place for a
//! Unix socket to listen on. Output that nobody takes yet is kept, up to a limit.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Standard input and output.
    Stdio,
    /// A file that only receives.
    File(PathBuf),
    /// A Unix socket that is made and listened on; one peer at a time.
    Listen(PathBuf),
    /// A character device, opened again when its other end goes away.
    Device(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Stdio => f.write_str("stdio"),
            Endpoint::File(path) | Endpoint::Listen(path) | Endpoint::Device(path) => {
                write!(f, "{}", path.display())
            }
        }
    }
}

fn kind_of(path: &Path) -> Option<std::fs::FileType> {
    std::fs::metadata(path).ok().map(|found| found.file_type())
}

impl Endpoint {
    /// A stream in both directions: a character device or a Unix socket.
    pub fn parse_stream(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        match kind_of(&path) {
            Some(kind) if kind.is_char_device() => Ok(Endpoint::Device(path)),
            Some(kind) if !kind.is_socket() => Err(format!(
                "'{text}' exists and is neither a character device nor a socket"
            )),
            _ if text.is_empty() => Err("the path is empty".into()),
            _ => Ok(Endpoint::Listen(path)),
        }
    }

    /// A console: `stdio`, a character device, or a file.
    pub fn parse_console(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        match (text, kind_of(&path)) {
            ("stdio", _) => Ok(Endpoint::Stdio),
            ("", _) => Err("the path is empty".into()),
            (_, Some(kind)) if kind.is_char_device() => Ok(Endpoint::Device(path)),
            (_, Some(kind)) if kind.is_dir() => Err(format!("'{text}' is a directory")),
            _ => Ok(Endpoint::File(path)),
        }
    }
}

/// Both directions of a connection.
pub type Connection = (Box<dyn Read + Send>, Box<dyn Write + Send>);

/// Yields the connections of an endpoint, one after the other.
pub struct Connector {
    endpoint: Endpoint,
    listener: Option<UnixListener>,
    once: Option<Connection>,
}

impl Connector {
    /// Opens the endpoint. For `Listen` the socket exists when this returns.
    pub fn open(endpoint: &Endpoint) -> io::Result<Self> {
        let mut connector = Connector {
            endpoint: endpoint.clone(),
            listener: None,
            once: None,
        };
        match endpoint {
            Endpoint::Stdio => {
                connector.once = Some((Box::new(io::stdin()), Box::new(io::stdout())));
            }
            Endpoint::File(path) => {
                connector.once = Some((Box::new(io::empty()), Box::new(File::create(path)?)));
            }
            Endpoint::Listen(path) => {
                if kind_of(path).is_some_and(|kind| kind.is_socket()) {
                    std::fs::remove_file(path)?;
                }
                connector.listener = Some(UnixListener::bind(path)?);
            }
            Endpoint::Device(path) => connector.once = Some(open_device(path)?),
        }
        Ok(connector)
    }

    /// Whether the end of input is not the end of the connection: the output goes on.
    fn output_survives_input(&self) -> bool {
        matches!(self.endpoint, Endpoint::Stdio | Endpoint::File(_))
    }

    /// Waits for the next connection; `None` if there will be none.
    pub fn accept(&mut self) -> io::Result<Option<Connection>> {
        if let Some(connection) = self.once.take() {
            return Ok(Some(connection));
        }
        match (&self.endpoint, &self.listener) {
            (_, Some(listener)) => {
                let (stream, _) = listener.accept()?;
                let output = stream.try_clone()?;
                Ok(Some((Box::new(stream), Box::new(output))))
            }
            (Endpoint::Device(path), _) => {
                // The other end hung up; a device says so at once, again and again.
                const PAUSE: Duration = Duration::from_millis(50);
                thread::sleep(PAUSE);
                open_device(path).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn open_device(path: &Path) -> io::Result<Connection> {
    let input = OpenOptions::new().read(true).write(true).open(path)?;
    let output = input.try_clone()?;
    Ok((Box::new(input), Box::new(output)))
}

impl Drop for Connector {
    fn drop(&mut self) {
        if let (Endpoint::Listen(path), Some(_)) = (&self.endpoint, &self.listener) {
            // If it cannot be removed the next run replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Bytes on their way out. The producer never blocks.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<OutboxState>,
    changed: Condvar,
}

#[derive(Default)]
struct OutboxState {
    bytes: VecDeque<u8>,
    dropped: u64,
    closed: bool,
    /// Taken out, but not yet written.
    in_flight: bool,
}

impl Outbox {
    /// Bytes kept for a peer that is not there; then the oldest go.
    const LIMIT: usize = 1 << 20;

    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues bytes.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.bytes.extend(bytes);
        let excess = state.bytes.len().saturating_sub(Self::LIMIT);
        state.bytes.drain(..excess);
        state.dropped += excess as u64;
        self.changed.notify_all();
    }

    /// Number of bytes that were dropped because nobody took them.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Waits until everything is written, at most for `limit`; then nothing more is sent.
    pub fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while !state.bytes.is_empty() || state.in_flight {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.closed = true;
        self.changed.notify_all();
    }

    /// Writes what is queued to `output` until closed, `hung_up` says so, or an error. What could
    /// not be written is kept for the next connection.
    fn drain_to(&self, output: &mut dyn Write, hung_up: &dyn Fn() -> bool) {
        loop {
            let mut state = self.lock();
            while state.bytes.is_empty() && !state.closed && !hung_up() {
                let waited = self.changed.wait_timeout(state, Duration::from_secs(1));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.bytes.is_empty() || hung_up() {
                return;
            }
            let chunk: Vec<u8> = state.bytes.drain(..).collect();
            state.in_flight = true;
            drop(state);
            let written = output.write_all(&chunk).and_then(|()| output.flush());
            let mut state = self.lock();
            state.in_flight = false;
            self.changed.notify_all();
            if written.is_err() {
                for byte in chunk.into_iter().rev() {
                    state.bytes.push_front(byte);
                }
                return;
            }
        }
    }

    fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }
}

/// Serves an endpoint for ever: output from `outbox`, input to `input` (called with each chunk).
/// To be run by a thread of its own, which ends with the process.
pub fn serve(mut connector: Connector, outbox: &Outbox, input: &(dyn Fn(&[u8]) + Sync)) {
    loop {
        match connector.accept() {
            Ok(Some((reader, writer))) => {
                let keep = connector.output_survives_input();
                serve_one(reader, writer, outbox, input, keep);
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!("{}: {error}", connector.endpoint);
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

fn serve_one(
    mut reader: Box<dyn Read + Send>,
    mut writer: Box<dyn Write + Send>,
    outbox: &Outbox,
    input: &(dyn Fn(&[u8]) + Sync),
    keep: bool,
) {
    let ended = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    thread::scope(|scope| {
        scope.spawn(|| outbox.drain_to(&mut *writer, &|| ended.load(order)));
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => input(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if !keep {
            ended.store(true, order);
            outbox.wake();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    fn socket_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("hvhost-{name}-{}", std::process::id()))
    }

    #[test]
    fn endpoints_are_told_apart() {
        let device = Endpoint::parse_stream("/dev/null").unwrap();
        assert_eq!(device, Endpoint::Device("/dev/null".into()));
        let listen = Endpoint::parse_stream("/tmp/no-such-socket").unwrap();
        assert_eq!(listen, Endpoint::Listen("/tmp/no-such-socket".into()));
        let error = Endpoint::parse_stream("/proc/version").unwrap_err();
        assert!(error.contains("'/proc/version'"));
        assert!(Endpoint::parse_console("/").unwrap_err().contains("'/'"));
        assert_eq!(Endpoint::parse_console("stdio"), Ok(Endpoint::Stdio));
    }

    #[test]
    fn output_waits_for_the_first_peer_and_the_next_one_is_served() {
        let path = socket_path("stream");
        let connector = Connector::open(&Endpoint::Listen(path.clone())).unwrap();
        let outbox = Arc::new(Outbox::default());
        outbox.push(b"early ");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (out, into) = (outbox.clone(), seen.clone());
        thread::spawn(move || {
            serve(connector, &out, &move |bytes: &[u8]| {
                into.lock().unwrap().extend_from_slice(bytes)
            })
        });
        for text in ["early one", "two"] {
            let mut peer = UnixStream::connect(&path).unwrap();
            if text == "two" {
                outbox.push(b"two");
            } else {
                outbox.push(b"one");
            }
            let mut got = vec![0; text.len()];
            peer.read_exact(&mut got).unwrap();
            assert_eq!(got, text.as_bytes());
            peer.write_all(b"in").unwrap();
        }
        let end = Instant::now() + Duration::from_secs(5);
        while seen.lock().unwrap().len() < 4 {
            assert!(Instant::now() < end, "input did not arrive");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(*seen.lock().unwrap(), b"inin");
    }

    #[test]
    fn unread_output_is_bounded() {
        let outbox = Outbox::default();
        outbox.push(&vec![1; Outbox::LIMIT]);
        outbox.push(b"abc");
        assert_eq!(outbox.dropped(), 3);
        assert_eq!(outbox.lock().bytes.back(), Some(&b'c'));
        outbox.close(Duration::from_millis(1));
    }
}
