//! A small HTTP/1.1 server on loopback that serves a tree, and lies where a test wants it to.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// The path, without the host.
    pub path: String,
    /// The first byte that is wanted (`Range: bytes=N-`).
    pub from: Option<u64>,
    /// The host that is wanted, where the client takes us for a proxy.
    pub proxy_for: Option<String>,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Serves the file.
    Serve,
    /// Says this status, with this body.
    Status(u16, &'static str),
    /// Promises the whole file and closes after this many bytes.
    Truncate(u64),
    /// Sends this many bytes and then nothing more, until the client goes.
    Stall(u64),
    /// Says nothing at all, until the client goes.
    Silence,
    /// Redirects to this path.
    Redirect(String),
    /// Says 200 and sends this instead.
    Lie(Vec<u8>),
}

/// Decides what is done with a request.
type Decide = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A running server. It ends with the test's process.
#[derive(Clone)]
pub struct Server {
    url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves a tree, honestly.
    #[must_use]
    pub fn of(tree: &Path) -> Self {
        Self::lying(tree, |_| Answer::Serve)
    }

    /// Serves a tree as `decide` says.
    ///
    /// # Panics
    ///
    /// Where no port on loopback is to be had.
    #[must_use]
    pub fn lying(tree: &Path, decide: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let server = Self { url, log: Arc::clone(&log) };
        let (tree, decide): (PathBuf, Decide) = (tree.to_owned(), Arc::new(decide));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tree, decide, log) = (tree.clone(), Arc::clone(&decide), Arc::clone(&log));
                // A client that goes away in the middle is what some tests are about.
                thread::spawn(move || drop(serve(stream, &tree, &decide, &log)));
            }
        });
        server
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }
}

/// Serves one connection, request after request.
fn serve(stream: TcpStream, tree: &Path, decide: &Decide, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader)? {
        if let Ok(mut log) = log.lock() {
            log.push(request.clone());
        }
        if !answer(&mut stream, &mut reader, tree, &request, decide(&request))? {
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or("/");
    // RFC 9112 3.2.2: to a proxy the whole URL is sent.
    let (proxy_for, target) = match target.strip_prefix("http://") {
        Some(rest) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(host.to_owned()), path)
        }
        None => (None, target),
    };
    let mut request = Request { path: decode(target.split('?').next().unwrap_or("/")), from: None, proxy_for };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            return Ok(Some(request));
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            let first = value.trim().strip_prefix("bytes=").and_then(|v| v.split('-').next());
            request.from = first.and_then(|v| v.parse().ok());
        }
    }
}

/// Decodes `%XX`.
fn decode(path: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        let hex: Option<Vec<u8>> = (b == b'%').then(|| bytes.by_ref().take(2).collect());
        let value =
            hex.as_deref().and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(value.unwrap_or(b));
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Answers; says whether the connection goes on.
fn answer(
    stream: &mut TcpStream,
    reader: &mut impl Read,
    tree: &Path,
    request: &Request,
    answer: Answer,
) -> std::io::Result<bool> {
    match answer {
        Answer::Status(status, body) => {
            plain(stream, status, "text/html", body.as_bytes())?;
            Ok(true)
        }
        Answer::Lie(body) => {
            plain(stream, 200, "application/octet-stream", &body)?;
            Ok(true)
        }
        Answer::Redirect(to) => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            Ok(true)
        }
        Answer::Serve => file(stream, tree, request, None).map(|()| true),
        Answer::Truncate(after) => file(stream, tree, request, Some(after)).map(|()| false),
        Answer::Stall(after) => {
            file(stream, tree, request, Some(after))?;
            until_it_goes(reader)
        }
        Answer::Silence => until_it_goes(reader),
    }
}

/// Waits until the client hangs up.
fn until_it_goes(reader: &mut impl Read) -> std::io::Result<bool> {
    std::io::copy(reader, &mut std::io::sink())?;
    Ok(false)
}

fn plain(stream: &mut TcpStream, status: u16, kind: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// Sends a file, or only its first `limit` bytes though it promises all.
fn file(stream: &mut TcpStream, tree: &Path, request: &Request, limit: Option<u64>) -> std::io::Result<()> {
    let below = Path::new(request.path.trim_start_matches('/'));
    let plain_path = below.components().all(|c| matches!(c, Component::Normal(_)));
    let opened = File::open(tree.join(below)).and_then(|f| {
        let meta = f.metadata()?;
        Ok((f, meta))
    });
    let Ok((mut file, meta)) = opened else {
        return plain(stream, 404, "text/html", b"<html>not found</html>");
    };
    if !plain_path || !meta.is_file() {
        return plain(stream, 404, "text/html", b"<html>not found</html>");
    }
    let from = request.from.unwrap_or(0);
    if from > 0 && from >= meta.len() {
        return plain(stream, 416, "text/html", b"");
    }
    file.seek(SeekFrom::Start(from))?;
    let length = meta.len() - from;
    let head = if request.from.is_some() {
        format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\n", meta.len() - 1, meta.len())
    } else {
        "HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\n".to_owned()
    };
    let head = format!("{head}ETag: \"{}\"\r\nContent-Length: {length}\r\n\r\n", meta.len());
    stream.write_all(head.as_bytes())?;
    std::io::copy(&mut file.take(limit.unwrap_or(length)), stream)?;
    stream.flush()
}
