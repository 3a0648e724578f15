//! A small proxy on loopback that knows `CONNECT` (RFC 9110, 9.3.6) and nothing else: it sees which host is wanted, and of
//! what is said no byte.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A running proxy. It ends with the test's process.
#[derive(Clone, Debug)]
pub struct Proxy {
    url: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Begins one that leads every host to this address, or refuses all where there is none.
    ///
    /// # Panics
    ///
    /// Where no port on loopback is to be had.
    #[must_use]
    pub fn to(server: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let proxy = Self { url, log: Arc::clone(&log) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                // A client that goes away has what it wanted.
                thread::spawn(move || drop(lead(client, server, &log)));
            }
        });
        proxy
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns what was asked for so far: `HOST:PORT`, or the whole first line of what is no `CONNECT`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }
}

/// Serves one client.
fn lead(mut client: TcpStream, server: Option<SocketAddr>, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while line.trim_end() != "" || line.is_empty() {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
    let wanted = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    if let Ok(mut log) = log.lock() {
        log.push(wanted.unwrap_or(first.trim_end()).to_owned());
    }
    let Some(address) = server.filter(|_| wanted.is_some()) else {
        return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    };
    let server = TcpStream::connect(address)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut to, mut from) = (server.try_clone()?, server);
    let there = thread::spawn(move || {
        // What came behind the request is in the reader already.
        drop(std::io::copy(&mut reader, &mut to));
        to.shutdown(Shutdown::Write)
    });
    drop(std::io::copy(&mut from, &mut client));
    client.shutdown(Shutdown::Write)?;
    drop(there.join());
    Ok(())
}
