// SPDX-License-Identifier: GPL-2.0

//! Unchecked TCP load for measurements: what the programs themselves cost must be little beside what the
//! network costs. Checked transfers are in [`tcp`](crate::tcp).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

const CHUNK: usize = 128 << 10;
/// Bytes of a request and of its answer.
const MESSAGE: usize = 1;
/// Longest wait for an answer before the exchange counts as broken.
const ANSWER: Duration = Duration::from_secs(10);

/// Round trips of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// How many.
    pub count: u64,
    /// The time that half of them stayed below, in microseconds.
    pub p50_us: u64,
    /// The time that 99 in 100 of them stayed below, in microseconds.
    pub p99_us: u64,
}

/// Accepts connections at `address` for ever and throws away what comes. Does not return.
pub fn drain(address: SocketAddr) -> io::Result<()> {
    serve(address, |mut stream| {
        let mut chunk = vec![0; CHUNK];
        while stream.read(&mut chunk)? > 0 {}
        Ok(())
    })
}

/// Accepts connections at `address` for ever and answers each byte with one. Does not return.
pub fn answer(address: SocketAddr) -> io::Result<()> {
    serve(address, |mut stream| {
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE];
        loop {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
    })
}

fn serve(address: SocketAddr, each: fn(TcpStream) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    loop {
        let (stream, _) = listener.accept()?;
        // A connection ends when its other side does; how is its business.
        thread::spawn(move || each(stream));
    }
}

/// Connects from a local port (any if it is 0), which may have been used just before. Closing the connection
/// resets it, so that the port can be used again.
fn connect(to: SocketAddr, port: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Sends zeroes over `connections` to `to` for `time`, from the local ports `port` and following, or from any if
/// that is 0; how many bytes the kernel took.
pub fn flood(to: SocketAddr, connections: u16, port: u16, time: Duration) -> io::Result<u64> {
    let streams: Vec<TcpStream> = (0..connections)
        .map(|i| connect(to, if port == 0 { 0 } else { port.wrapping_add(i) }))
        .collect::<io::Result<_>>()?;
    let end = Instant::now() + time;
    let threads: Vec<_> = streams
        .into_iter()
        .map(|stream| thread::spawn(move || flood_one(stream, end)))
        .collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread
            .join()
            .map_err(|_| io::Error::other("a sending thread panicked"))??;
    }
    Ok(bytes)
}

fn flood_one(mut stream: TcpStream, end: Instant) -> io::Result<u64> {
    let chunk = vec![0; CHUNK];
    let mut bytes = 0;
    // A connection that makes no progress must not outlast the time either.
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.write(&chunk) {
            Ok(n) => bytes += n as u64,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

/// Exchanges one byte against one with [`answer`] at `to`, over and over for `time`, from a local port (any if it
/// is 0).
pub fn round_trips(to: SocketAddr, port: u16, time: Duration) -> io::Result<RoundTrips> {
    let mut stream = connect(to, port)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut message = [0; MESSAGE];
    let mut took = Vec::new();
    let end = Instant::now() + time;
    loop {
        let began = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let now = Instant::now();
        took.push(u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX));
        if now >= end {
            return Ok(summary(took));
        }
    }
}

fn summary(mut took: Vec<u64>) -> RoundTrips {
    took.sort_unstable();
    RoundTrips {
        count: took.len() as u64,
        p50_us: percentile(&took, 50),
        p99_us: percentile(&took, 99),
    }
}

/// The smallest value that at least `percent` of the sorted values do not exceed; 0 if there are none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a server at a free port.
    fn served(server: fn(SocketAddr) -> io::Result<()>) -> SocketAddr {
        let free = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = free.local_addr().expect("address");
        drop(free);
        thread::spawn(move || server(address));
        for _ in 0..500 {
            if TcpStream::connect(address).is_ok() {
                return address;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody listens");
    }

    #[test]
    fn a_flood_goes_on_for_its_time_on_all_connections() {
        let to = served(drain);
        let began = Instant::now();
        let time = Duration::from_millis(150);
        let bytes = flood(to, 3, 0, time).expect("floods");
        assert!(began.elapsed() >= time);
        assert!(bytes >= 3 * CHUNK as u64, "{bytes}");
    }

    #[test]
    fn round_trips_are_counted_and_timed() {
        let to = served(answer);
        let trips = round_trips(to, 0, Duration::from_millis(100)).expect("exchanges");
        assert!(trips.count > 10, "{trips:?}");
        assert!(
            0 < trips.p99_us && trips.p50_us <= trips.p99_us,
            "{trips:?}"
        );
    }

    #[test]
    fn a_local_port_can_be_used_again_at_once() {
        let to = served(answer);
        let free = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = free.local_addr().expect("address").port();
        drop(free);
        for _ in 0..3 {
            let trips = round_trips(to, port, Duration::from_millis(5)).expect("exchanges");
            assert!(trips.count > 0);
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), 50);
        assert_eq!(percentile(&hundred, 99), 99);
        assert_eq!(percentile(&[7], 99), 7);
        assert_eq!(percentile(&[3, 9], 99), 9);
        assert_eq!(percentile(&[], 50), 0);
    }
}
