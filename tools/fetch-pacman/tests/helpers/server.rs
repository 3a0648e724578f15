//! A server on the loopback interface that answers as it is told to, and remembers what it was asked.

use super::fixture::{Format, Package, database, ring};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// How a request is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A file, or the part of it that was asked for.
    File(Vec<u8>),
    /// That many bytes of what was asked for, under the length of it all, and then the connection ends.
    Cut(Vec<u8>, usize),
    /// As [`Answer::Cut`], but HTTP/1.0 without a length: nothing in HTTP says that it is not the whole.
    CutSilently(Vec<u8>, usize),
    /// That many bytes, and then nothing until the other side hangs up.
    Stall(Vec<u8>, usize),
    /// A status line such as `404 Not Found`.
    Status(&'static str),
    /// A redirect.
    To(String),
    /// A body of zeros without a length and without an end.
    Endless,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, Vec<Answer>>,
    /// The paths of the requests.
    asked: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

/// A connection, encrypted or not.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

impl Server {
    pub(crate) fn new() -> Self {
        Self::on("http", |stream| Box::new(stream))
    }

    /// Returns a server that speaks TLS and says that it is `localhost`.
    pub(crate) fn secure(certificate: &Path, key: &Path) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(certificate).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let mut server = Self::on("https", move |stream| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            Box::new(rustls::StreamOwned::new(connection, stream))
        });
        server.url = server.url.replace("127.0.0.1", "localhost");
        server
    }

    fn on(scheme: &str, dress: impl Fn(TcpStream) -> Box<dyn Stream> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let dress = Arc::new(dress);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, dress) = (Arc::clone(&shared), Arc::clone(&dress));
                std::thread::spawn(move || {
                    // A client that hangs up in the middle is part of the game.
                    drop(serve(&mut *dress(stream.unwrap()), &state));
                });
            }
        });
        Self { url, state }
    }

    /// Returns a server that has these packages in `archlinuxcn`, and the keyring package, with nothing wrong.
    pub(crate) fn with(packages: &[&Package]) -> Self {
        let packages: Vec<_> = packages.iter().copied().chain([ring()]).collect();
        Self::with_only(&packages)
    }

    /// Returns a server that has only these packages in `archlinuxcn`.
    pub(crate) fn with_only(packages: &[&Package]) -> Self {
        let server = Self::new();
        server.say("/archlinuxcn.db", Answer::File(database(packages, Format::Gz)));
        for package in packages {
            server.say(&format!("/{}", package.file), Answer::File(package.bytes.clone()));
        }
        server
    }

    /// Answers a path so.
    pub(crate) fn say(&self, path: &str, answer: Answer) {
        self.say_all(path, vec![answer]);
    }

    /// Answers a path with one after the other; the last one stays.
    pub(crate) fn say_all(&self, path: &str, answers: Vec<Answer>) {
        let mut state = self.state.lock().unwrap();
        state.answers.insert(path.to_owned(), answers);
    }

    /// Returns the paths that it was asked for.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Returns how often it was asked for this path.
    pub(crate) fn times(&self, path: &str) -> usize {
        self.paths().iter().filter(|asked| *asked == path).count()
    }
}

/// A port at which nobody listens, and nobody else can.
#[derive(Debug)]
pub(crate) struct Nobody {
    pub(crate) url: String,
    _socket: OwnedFd,
}

impl Nobody {
    pub(crate) fn new() -> Self {
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let at: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
        Self { url: format!("http://{at}"), _socket: socket }
    }
}

/// Reads what comes before the body: up to the first empty line.
fn request(stream: &mut dyn Stream) -> std::io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    Ok(String::from_utf8(text).unwrap())
}

fn serve(out: &mut dyn Stream, state: &Mutex<State>) -> std::io::Result<()> {
    let request = request(out)?;
    let line = request.lines().next().unwrap();
    let path = line.split(' ').nth(1).unwrap();
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(path.to_owned());
        match state.answers.get_mut(path) {
            None => Answer::Status("404 Not Found"),
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
        }
    };
    let head = |bytes: &[u8]| {
        let length = bytes.len();
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
    };
    match answer {
        Answer::File(bytes) => {
            out.write_all(head(&bytes).as_bytes())?;
            out.write_all(&bytes)
        }
        Answer::Cut(bytes, n) => {
            out.write_all(head(&bytes).as_bytes())?;
            out.write_all(&bytes[..n.min(bytes.len())])
        }
        Answer::CutSilently(bytes, n) => {
            for line in head(&bytes).split_inclusive("\r\n") {
                if !line.starts_with("Content-Length") {
                    out.write_all(line.replace("HTTP/1.1", "HTTP/1.0").as_bytes())?;
                }
            }
            out.write_all(&bytes[..n.min(bytes.len())])
        }
        Answer::Stall(bytes, n) => {
            out.write_all(head(&bytes).as_bytes())?;
            out.write_all(&bytes[..n.min(bytes.len())])?;
            // Ends when the client hangs up.
            std::io::copy(out, &mut std::io::sink()).map(drop)
        }
        Answer::Status(status) => write!(out, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        Answer::To(url) => {
            write!(out, "HTTP/1.1 302 Found\r\nLocation: {url}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        }
        Answer::Endless => {
            out.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
            loop {
                out.write_all(&[0; 1 << 16])?;
            }
        }
    }
}
