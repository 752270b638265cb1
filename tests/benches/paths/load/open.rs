//! Open loop: requests at fixed times, whether or not earlier ones were answered, as far as there are connections; latencies
//! are from the intended time, so that a stall counts for every request that it delays.
//!
//! A thread per connection: the timers of an asynchronous runtime are a millisecond apart.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use super::{
    Options,
    connection::{SMALL, Target, get},
    latency::Latencies,
    reader::Reader,
    window::Window,
};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Plain HTTP only.
pub(super) fn run(options: &Options, target: &Target) -> Result<Value> {
    // Wake-ups to the microsecond; by default the kernel is free to be 50 late. Threads inherit it.
    nix::sys::prctl::set_timerslack(1)?;
    let connections = u32::try_from(options.connections)?;
    let interval = Duration::from_secs(1) / options.rate;
    let connected = Barrier::new(options.connections + 1);
    let client = |number: u32| {
        let stream = connect(target);
        connected.wait();
        let began = Instant::now() + interval * number;
        let mut client = Client { stream: stream?, reader: Reader::new(), request: get(SMALL, false) };
        let (warm_up, whole) = (options.warm_up(), options.warm_up() + options.window());
        let mut latencies = Latencies::default();
        for turn in 0.. {
            let offset = interval * connections * turn;
            if offset >= whole {
                break;
            }
            let intended = began + offset;
            sleep_until(intended);
            client.exchange()?;
            if offset >= warm_up {
                latencies.add(intended.elapsed());
            }
        }
        Ok(latencies)
    };
    thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..connections).map(|number| scope.spawn(move || client(number))).collect();
        connected.wait();
        sleep_until(Instant::now() + options.warm_up());
        let window = Window::begin(options)?;
        let mut latencies = Latencies::default();
        for client in clients {
            let of_one: Result<Latencies> = client.join().map_err(|_| anyhow!("a client panicked"))?;
            latencies.extend(of_one?);
        }
        window.end_with(latencies)
    })
}

fn connect(target: &Target) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.address, PATIENCE)
        .with_context(|| format!("cannot connect to {}", target.address))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

struct Client {
    stream: TcpStream,
    reader: Reader,
    request: Vec<u8>,
}

impl Client {
    fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).context("cannot send")?;
        loop {
            let bytes = self.stream.read(self.reader.space()).context("cannot receive")?;
            if let Some(answer) = self.reader.advance(bytes)? {
                return answer.expect(200);
            }
        }
    }
}

fn sleep_until(time: Instant) {
    loop {
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}
