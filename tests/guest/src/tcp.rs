// SPDX-License-Identifier: GPL-2.0

//! Checked bulk transfer over TCP: the receiver computes what must arrive and compares every byte,
//! and both ends state a checksum.
//!
//! A connection carries a 16-byte header (seed and length, little-endian; all ones: until the sender
//! shuts its direction down), the data, and in the other direction a 16-byte verdict: length
//! received, CRC-32, and 1 if every byte was right.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::pattern::{Checksum, Pattern};

const CHUNK: usize = 64 << 10;

/// One connection's transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Seed of its pattern.
    pub seed: u64,
    /// Bytes sent or received.
    pub bytes: u64,
    /// CRC-32 of them.
    pub crc: u32,
    /// Every byte was what it should be, and the other side agrees.
    pub intact: bool,
}

/// All connections of one transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its connections, ordered by seed.
    pub streams: Vec<Stream>,
    /// From the first connection to the last verdict, in milliseconds.
    pub elapsed_ms: u64,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The receiver.
    pub to: SocketAddr,
    /// Local address, if it matters.
    pub from: Option<IpAddr>,
    /// Connections, in parallel.
    pub streams: u32,
    /// How much on each.
    pub amount: Amount,
    /// Rest between two chunks of 64 KiB on a connection, to leave the machine room for other work.
    pub pause: Duration,
    /// Seed of the first; the others count up.
    pub seed: u64,
    /// Longest silence on any connection.
    pub patience: Duration,
}

/// How much to send on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amount {
    /// This many bytes.
    Bytes(u64),
    /// Until this file exists.
    UntilExists(PathBuf),
}

/// The length in the header of a connection that ends when its sender says so.
const OPEN_END: u64 = u64::MAX;
/// How long a receiver that does not listen yet is waited for.
const LISTENING: Duration = Duration::from_secs(10);

/// Accepts `connections` at `listener` and receives them all.
pub fn receive(listener: &TcpListener, connections: u32, patience: Duration) -> io::Result<Report> {
    let mut began = None;
    let mut threads = Vec::new();
    for _ in 0..connections {
        let (stream, _) = listener.accept()?;
        began.get_or_insert_with(Instant::now);
        set_patience(&stream, patience)?;
        threads.push(thread::spawn(move || receive_one(stream)));
    }
    report(threads, began.unwrap_or_else(Instant::now))
}

/// Opens all connections of `sending` and sends on them in parallel.
pub fn send(sending: Sending) -> io::Result<Report> {
    let began = Instant::now();
    let threads = (0..sending.streams)
        .map(|i| {
            let sending = sending.clone();
            thread::spawn(move || {
                let stream = connect(&sending)?;
                send_one(stream, &sending, sending.seed + u64::from(i))
            })
        })
        .collect();
    report(threads, began)
}

fn report(
    threads: Vec<thread::JoinHandle<io::Result<Stream>>>,
    began: Instant,
) -> io::Result<Report> {
    let mut streams = threads
        .into_iter()
        .map(|t| {
            t.join()
                .map_err(|_| io::Error::other("a transfer thread panicked"))?
        })
        .collect::<io::Result<Vec<Stream>>>()?;
    streams.sort_by_key(|s| s.seed);
    Ok(Report {
        streams,
        elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn connect(sending: &Sending) -> io::Result<TcpStream> {
    let began = Instant::now();
    loop {
        let socket = Socket::new(Domain::for_address(sending.to), Type::STREAM, None)?;
        if let Some(from) = sending.from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect_timeout(&sending.to.into(), sending.patience) {
            Ok(()) => {
                let stream = TcpStream::from(socket);
                set_patience(&stream, sending.patience)?;
                return Ok(stream);
            }
            // Both ends are started at the same time, and the other is not there yet.
            Err(e)
                if e.kind() == io::ErrorKind::ConnectionRefused && began.elapsed() < LISTENING =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e),
        }
    }
}

fn set_patience(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

fn send_one(mut stream: TcpStream, sending: &Sending, seed: u64) -> io::Result<Stream> {
    let promised = match sending.amount {
        Amount::Bytes(bytes) => bytes,
        Amount::UntilExists(_) => OPEN_END,
    };
    stream.write_all(&pair(seed, promised))?;
    let mut pattern = Pattern::new(seed);
    let mut checksum = Checksum::default();
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let n = match &sending.amount {
            Amount::Bytes(all) => (all - bytes).min(CHUNK as u64) as usize,
            Amount::UntilExists(path) if path.exists() => 0,
            Amount::UntilExists(_) => CHUNK,
        };
        if n == 0 {
            break;
        }
        pattern.fill(&mut chunk[..n]);
        checksum.update(&chunk[..n]);
        stream.write_all(&chunk[..n])?;
        bytes += n as u64;
        thread::sleep(sending.pause);
    }
    stream.shutdown(Shutdown::Write)?;
    let mut verdict = [0; 16];
    stream.read_exact(&mut verdict)?;
    let crc = checksum.value();
    Ok(Stream {
        seed,
        bytes,
        crc,
        intact: verdict == pair(bytes, u64::from(crc) | 1 << 32),
    })
}

fn receive_one(mut stream: TcpStream) -> io::Result<Stream> {
    let mut header = [0; 16];
    stream.read_exact(&mut header)?;
    let (seed, length) = unpair(&header);
    let mut pattern = Pattern::new(seed);
    let mut checksum = Checksum::default();
    let mut chunk = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    let (mut bytes, mut intact) = (0, true);
    while bytes < length {
        let want = (length - bytes).min(CHUNK as u64) as usize;
        let n = stream.read(&mut chunk[..want])?;
        if n == 0 {
            break;
        }
        pattern.fill(&mut expected[..n]);
        checksum.update(&chunk[..n]);
        intact &= chunk[..n] == expected[..n];
        bytes += n as u64;
    }
    let crc = checksum.value();
    intact &= bytes == length || length == OPEN_END;
    stream.write_all(&pair(bytes, u64::from(crc) | u64::from(intact) << 32))?;
    Ok(Stream {
        seed,
        bytes,
        crc,
        intact,
    })
}

fn pair(a: u64, b: u64) -> [u8; 16] {
    (u128::from(b) << 64 | u128::from(a)).to_le_bytes()
}

fn unpair(bytes: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*bytes);
    (both as u64, (both >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("binds")
    }

    #[test]
    fn both_ends_agree_on_every_stream() {
        let listener = listener();
        let to = listener.local_addr().expect("address");
        let receiver = thread::spawn(move || receive(&listener, 3, PATIENCE));
        let sent = send(Sending {
            to,
            from: None,
            streams: 3,
            amount: Amount::Bytes(200_001),
            pause: Duration::ZERO,
            seed: 5,
            patience: PATIENCE,
        })
        .expect("sends");
        let received = receiver.join().expect("no panic").expect("receives");
        assert_eq!(sent.streams, received.streams);
        assert!(sent.streams.iter().all(|s| s.intact && s.bytes == 200_001));
        assert_ne!(sent.streams[0].crc, sent.streams[1].crc);
    }

    #[test]
    fn an_open_ended_transfer_ends_when_the_file_appears() {
        let listener = listener();
        let to = listener.local_addr().expect("address");
        let stop = std::env::temp_dir().join(format!("guest-agent-stop-{}", std::process::id()));
        let receiver = thread::spawn(move || receive(&listener, 1, PATIENCE));
        let sending = Sending {
            to,
            from: None,
            streams: 1,
            amount: Amount::UntilExists(stop.clone()),
            pause: Duration::from_millis(5),
            seed: 9,
            patience: PATIENCE,
        };
        let sender = thread::spawn(move || send(sending));
        thread::sleep(Duration::from_millis(200));
        std::fs::write(&stop, "").expect("writes");
        let sent = sender.join().expect("no panic").expect("sends");
        let received = receiver.join().expect("no panic").expect("receives");
        std::fs::remove_file(stop).expect("removes");
        assert!(sent.streams[0].intact && sent.streams[0].bytes > 0);
        assert_eq!(sent.streams, received.streams);
    }

    #[test]
    fn a_wrong_byte_and_a_short_stream_are_noticed_by_the_receiver() {
        for (damage, cut) in [(true, 0), (false, 1)] {
            let listener = listener();
            let to = listener.local_addr().expect("address");
            let receiver = thread::spawn(move || receive(&listener, 1, PATIENCE));
            let mut stream = TcpStream::connect(to).expect("connects");
            let mut data = vec![0; 1000];
            Pattern::new(1).fill(&mut data);
            if damage {
                data[500] ^= 1;
            }
            stream.write_all(&pair(1, 1000)).expect("writes");
            stream.write_all(&data[cut..]).expect("writes");
            stream.shutdown(Shutdown::Write).expect("shuts");
            let report = receiver.join().expect("no panic").expect("receives");
            assert!(!report.streams[0].intact, "damage {damage} cut {cut}");
        }
    }
}
