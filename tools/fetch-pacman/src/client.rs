//! Asking a server for a file, over HTTP or from a directory.
//!
//! reqwest's blocking calls cannot be interrupted by a signal, and its runtime waits for a name look-up that hangs when
//! it is dropped. So one thread of our own holds it, and sends what arrives through a channel with a socket beside it
//! that poll(2) takes together with [`stage::signal::descriptor`]. A signal is then answered at once, and the thread
//! ends with the process.
//!
//! TLS is set up by us and only for https: reqwest's own verifier fails on a host without certificates even where the
//! server is plain http, which is just the host that a bootstrap runs on.

use crate::fault::{Fault, Stop};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use reqwest::blocking::{Client, Response};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, LOCATION,
    RANGE,
};
use rustls::CertificateError;
use stage::date::day;
use stage::{Code, Context, Doing, signal};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(20);

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// How much is handed over at once, and how many such pieces may wait.
const PIECE: usize = 1 << 16;
const WAITING: usize = 8;

/// What a server says before the first byte of the file.
#[derive(Debug)]
pub(crate) struct Head {
    /// The status: 200, 206, 404 and so on.
    pub(crate) status: u16,
    /// The status in words.
    pub(crate) words: String,
    /// Where in the file the body begins.
    pub(crate) start: u64,
    /// How long the body is, where the server says so.
    pub(crate) length: Option<u64>,
    /// What `If-Range` takes, to continue this very file later.
    pub(crate) validator: Option<String>,
}

/// What the thread that downloads has to tell.
#[derive(Debug)]
pub(crate) enum Event {
    Warning(String),
    Head(Head),
    Piece(Vec<u8>),
    End,
}

/// What is wanted from the thread that downloads.
#[derive(Debug)]
struct Request {
    url: String,
    from: u64,
    validator: Option<String>,
    to: Reply,
}

/// The end of a transfer that the thread has: one byte on `wake` follows each event in `events`.
#[derive(Debug)]
struct Reply {
    events: SyncSender<Result<Event, Fault>>,
    wake: UnixStream,
}

impl Reply {
    /// Sends an event; fails where nobody wants it any more.
    fn send(&mut self, event: Result<Event, Fault>) -> Result<(), ()> {
        self.events.send(event).map_err(drop)?;
        self.wake.write_all(&[0]).map_err(drop)
    }
}

/// What asks servers. Nothing is set up before it is needed.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    context: &'a Context,
    timeout: Duration,
    thread: Option<Sender<Request>>,
}

/// A file on its way.
#[derive(Debug)]
pub(crate) enum Transfer {
    /// From a thread that downloads it.
    Remote {
        events: Receiver<Result<Event, Fault>>,
        wake: UnixStream,
    },
    /// From a directory of this host.
    Local(File),
}

impl<'a> Asker<'a> {
    pub(crate) fn new(context: &'a Context, timeout: Duration) -> Self {
        Self {
            context,
            timeout,
            thread: None,
        }
    }

    /// Asks for a file from byte `from` on, and returns what the server says of it.
    pub(crate) fn get(
        &mut self,
        url: &str,
        from: u64,
        validator: Option<&str>,
    ) -> Result<(Head, Transfer), Stop> {
        if let Some(path) = url.strip_prefix("file://") {
            return local(path, from);
        }
        let os = || "starting the download";
        let (events, receiver) = sync_channel(WAITING);
        let (ours, theirs) = UnixStream::pair().doing(Code::Os, os)?;
        let request = Request {
            url: url.to_owned(),
            from,
            validator: validator.map(str::to_owned),
            to: Reply {
                events,
                wake: theirs,
            },
        };
        let thread = match &self.thread {
            Some(thread) => thread,
            None => {
                let (sender, requests) = channel();
                let timeout = self.timeout;
                std::thread::Builder::new()
                    .name("download".into())
                    .spawn(move || serve(&requests, timeout))
                    .doing(Code::Os, os)?;
                self.thread.insert(sender)
            }
        };
        // Where the thread is gone, so is the other end of the wake socket: the transfer says so.
        drop(thread.send(request));
        let mut transfer = Transfer::Remote {
            events: receiver,
            wake: ours,
        };
        loop {
            match transfer.event()? {
                Event::Warning(text) => self.context.warn(text),
                Event::Head(head) => return Ok((head, transfer)),
                Event::Piece(_) | Event::End => return Err(lost().into()),
            }
        }
    }
}

impl Transfer {
    /// Returns the next piece of the body, or none at its end.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        if let Self::Local(file) = self {
            signal::check()?;
            let mut piece = vec![0; PIECE];
            let n = file
                .read(&mut piece)
                .map_err(|e| Fault::new(Code::Failed, e.to_string()))?;
            piece.truncate(n);
            return Ok((n > 0).then_some(piece));
        }
        match self.event()? {
            Event::Piece(piece) => Ok(Some(piece)),
            Event::End => Ok(None),
            Event::Warning(_) | Event::Head(_) => Err(lost().into()),
        }
    }

    /// Waits for what the thread has to tell, or for a signal.
    fn event(&mut self) -> Result<Event, Stop> {
        let Self::Remote { events, wake } = self else {
            return Err(lost().into());
        };
        loop {
            let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
            if let Some(fd) = signal::descriptor() {
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => signal::check()?,
                Err(e) => return Err(e).doing(Code::Os, || "waiting for a server")?,
            }
            if fds[0].any().unwrap_or(true) {
                break;
            }
        }
        match wake.read(&mut [0]) {
            Ok(1) => Ok(events.recv().unwrap_or_else(|_| Err(lost()))?),
            _ => Err(lost().into()),
        }
    }
}

/// The thread that downloads ended without a word: it has a bug.
fn lost() -> Fault {
    Fault::new(Code::Failed, "the download ended without a reason")
}

/// Opens a file of a `file://` server as if it were downloaded.
fn local(path: &str, from: u64) -> Result<(Head, Transfer), Stop> {
    let fault = |e: std::io::Error| {
        let code = match e.kind() {
            ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failed,
        };
        Fault::new(code, e.to_string())
    };
    // Looked at before it is opened: opening a FIFO would wait for ever.
    let meta = std::fs::metadata(path).map_err(fault)?;
    if !meta.is_file() {
        return Err(Fault::new(Code::Failed, "not a regular file").into());
    }
    let mut file = File::open(path).map_err(fault)?;
    let start = from.min(meta.len());
    file.seek(SeekFrom::Start(start)).map_err(fault)?;
    let head = Head {
        status: if start > 0 { 206 } else { 200 },
        words: String::new(),
        start,
        length: Some(meta.len() - start),
        validator: None,
    };
    Ok((head, Transfer::Local(file)))
}

/// The thread's work: one request after the other, on connections that stay open between them.
fn serve(requests: &Receiver<Request>, timeout: Duration) {
    let mut clients = Clients {
        timeout,
        plain: None,
        secure: None,
    };
    for mut request in requests {
        if let Err(Some(fault)) = transfer(&mut clients, &mut request) {
            // Where nobody wants the download any more, nobody wants to know why it failed.
            request.to.send(Err(fault)).unwrap_or_default();
        }
    }
}

/// Downloads one file. `Err(None)` says that nobody wants it any more.
fn transfer(clients: &mut Clients, request: &mut Request) -> Result<(), Option<Fault>> {
    let mut response = follow(clients, request)?;
    let head = head(&response);
    request.to.send(Ok(Event::Head(head))).map_err(|()| None)?;
    let mut bytes = 0;
    let mut pace = Pace::default();
    loop {
        let mut piece = vec![0; PIECE];
        let begin = Instant::now();
        let read = response.read(&mut piece);
        let crawls = read
            .as_ref()
            .is_ok_and(|n| *n > 0 && pace.crawls(*n as u64, begin.elapsed(), clients.timeout));
        if crawls {
            let why = format!(
                "too slow: less than {SLOWEST} bytes a second for {} s",
                clients.timeout.as_secs()
            );
            return Err(Some(Fault::new(Code::Network, why)));
        }
        let n = match read {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => {
                let timed_out = e
                    .get_ref()
                    .and_then(|e| e.downcast_ref::<reqwest::Error>())
                    .is_some_and(reqwest::Error::is_timeout);
                let why = if timed_out {
                    stalled(clients.timeout)
                } else {
                    cause(&e)
                };
                let fault = Fault::new(
                    Code::Network,
                    format!("the connection broke after {bytes} bytes: {why}"),
                );
                // A server that sent something before it fell silent is worth another try.
                return Err(Some(if timed_out && bytes == 0 {
                    fault
                } else {
                    fault.again()
                }));
            }
        };
        let event = if n == 0 {
            Event::End
        } else {
            piece.truncate(n);
            bytes += n;
            Event::Piece(piece)
        };
        request.to.send(Ok(event)).map_err(|()| None)?;
        if n == 0 {
            return Ok(());
        }
    }
}

/// How many bytes a second must come at least: with less, a package takes hours, and another server or another day is better.
const SLOWEST: u64 = 1024;

/// How fast a file comes. Only the time that is spent in waiting for it counts.
#[derive(Debug, Default)]
struct Pace {
    bytes: u64,
    time: Duration,
}

impl Pace {
    /// Adds what came, and returns whether too little did in the last `limit`.
    fn crawls(&mut self, bytes: u64, time: Duration, limit: Duration) -> bool {
        self.bytes += bytes;
        self.time += time;
        if self.time < limit {
            return false;
        }
        let slow = self.bytes < SLOWEST * self.time.as_secs();
        *self = Self::default();
        slow
    }
}

/// Asks, and follows redirects. We do it ourselves so that TLS is set up only where a redirect leads to it, and so that
/// none leads away from it.
fn follow(clients: &mut Clients, request: &mut Request) -> Result<Response, Option<Fault>> {
    let failed = |why: String| Some(Fault::new(Code::Failed, why));
    let mut url = reqwest::Url::parse(&request.url).map_err(|e| failed(e.to_string()))?;
    for _ in 0..=REDIRECTS {
        let client = clients.get(url.scheme(), &mut request.to)?;
        let mut asked = client.get(url.clone());
        if request.from > 0 {
            asked = asked.header(RANGE, format!("bytes={}-", request.from));
            if let Some(validator) = &request.validator {
                asked = asked.header(IF_RANGE, validator);
            }
        }
        let response = asked.send().map_err(|e| {
            // Who does not take the call, or takes it and is silent, will not do better at once.
            Some(if e.is_timeout() {
                Fault::new(Code::Network, stalled(clients.timeout))
            } else if let Some(why) = impostor(&e) {
                let fault = Fault::new(Code::NotVerified, cause(&e));
                match hint(why, SystemTime::now()) {
                    Some(hint) => fault.hint(hint),
                    None => fault,
                }
            } else if e.is_connect() {
                Fault::new(Code::Network, cause(&e))
            } else {
                Fault::new(Code::Network, cause(&e)).again()
            })
        })?;
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(response);
        }
        let to = text(response.headers(), LOCATION)
            .ok_or_else(|| failed("a redirect that leads nowhere".into()))?;
        let next = url
            .join(&to)
            .map_err(|e| failed(format!("a redirect to '{to}': {e}")))?;
        if url.scheme() == "https" && next.scheme() != "https" {
            return Err(failed(format!(
                "a redirect from https to '{}', which is not encrypted",
                crate::server::shown(next.as_str())
            )));
        }
        url = next;
    }
    // A mirror in the middle of a move: it may go away.
    Err(Some(Fault::new(
        Code::Network,
        format!("redirected more than {REDIRECTS} times"),
    )))
}

fn head(response: &Response) -> Head {
    let headers = response.headers();
    let status = response.status();
    // "bytes 100-199/200"; what cannot be read is taken for a start that nobody asked for.
    let start = || {
        let range = text(headers, CONTENT_RANGE)?;
        let (first, _) = range.strip_prefix("bytes ")?.split_once('-')?;
        first.parse().ok()
    };
    Head {
        status: status.as_u16(),
        words: status.to_string(),
        start: if status.as_u16() == 206 {
            start().unwrap_or(u64::MAX)
        } else {
            0
        },
        length: text(headers, CONTENT_LENGTH).and_then(|n| n.parse().ok()),
        // A weak ETag says nothing about bytes: RFC 9110 13.1.5 forbids it here.
        validator: text(headers, ETAG)
            .filter(|tag| tag.starts_with('"'))
            .or_else(|| text(headers, LAST_MODIFIED)),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn stalled(timeout: Duration) -> String {
    format!("nothing came for {} s", timeout.as_secs())
}

/// Returns the innermost reason: reqwest's own words are only where it was.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

/// Returns why the other side could not prove who it is, where that is the matter.
fn impostor<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(why);
        }
        // An io::Error's source is not what it wraps, but the source of that.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Returns what mends that a certificate is refused.
fn hint(why: &CertificateError, now: SystemTime) -> Option<String> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match why {
        // Certificates live for months: a host without a battery for its clock wakes up in 1970.
        CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. }
        | CertificateError::Expired
        | CertificateError::ExpiredContext { .. } => Some(format!(
            "this host's clock says {}: if that is wrong, set it, with 'timedatectl set-ntp true' or 'date --utc --set'",
            day(now)
        )),
        CertificateError::UnknownIssuer => Some(
            "if the certificate is of an authority of your own, name its file: SSL_CERT_FILE=FILE, with those that are needed \
             besides in it"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The HTTP clients, made when they are needed.
struct Clients {
    timeout: Duration,
    plain: Option<Client>,
    secure: Option<Client>,
}

impl Clients {
    fn get(&mut self, scheme: &str, warn: &mut Reply) -> Result<Client, Option<Fault>> {
        let failed = |why: String| Some(Fault::new(Code::Failed, why));
        let client = match scheme {
            "https" => &mut self.secure,
            "http" => &mut self.plain,
            _ => {
                return Err(failed(format!(
                    "'{scheme}' is not spoken here: http, https and file are"
                )));
            }
        };
        if let Some(client) = client {
            return Ok(client.clone());
        }
        let mut roots = rustls::RootCertStore::empty();
        // Reading the host's certificates takes 3 ms, so only who needs them reads them.
        if scheme == "https" {
            let found = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
                let text = "this host has no certificate authorities: using those of this program";
                warn.send(Ok(Event::Warning(text.into())))
                    .map_err(|()| None)?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| failed(format!("setting up TLS: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // With a configuration of ours nobody else sets it, and HTTP/2 is silently lost.
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let built = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("strapline/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(self.timeout))
            .timeout(self.timeout)
            .build()
            .map_err(|e| failed(format!("setting up HTTP: {}", cause(&e))))?;
        Ok(client.insert(built).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crawl_is_known_by_the_time_that_was_waited() {
        let (second, limit) = (Duration::from_secs(1), Duration::from_secs(3));
        let mut pace = Pace::default();
        assert!(!pace.crawls(SLOWEST, second, limit));
        assert!(!pace.crawls(0, second, limit));
        assert!(!pace.crawls(2 * SLOWEST, second, limit), "fast enough");
        assert!(!pace.crawls(5 * SLOWEST, second, limit), "a new beginning");
        assert!(!pace.crawls(1, 2 * second, limit));
        assert!(!pace.crawls(1, Duration::ZERO, limit));
        assert!(pace.crawls(1, 3 * second, limit));
    }

    #[test]
    fn a_clock_that_is_wrong_is_named() {
        let now = UNIX_EPOCH + Duration::from_secs(86_400);
        let hint = hint(&CertificateError::NotValidYet, now).unwrap();
        assert!(
            hint.starts_with("this host's clock says 1970-01-02:"),
            "{hint}"
        );
    }
}
