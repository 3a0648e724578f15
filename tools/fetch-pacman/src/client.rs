//! Asking a server for a file, over HTTP or from a directory.
//!
//! reqwest's blocking calls cannot be interrupted by a signal, and its runtime waits for a name look-up that hangs when
//! it is dropped. So a thread of our own makes the calls and sends what arrives through a channel; who waits for that
//! looks at [`signal`] ten times a second. The thread ends with the process.

use crate::fault::{Fault, Stop};
use reqwest::Url;
use reqwest::blocking::{Client, Response};
use reqwest::header::CONTENT_LENGTH;
use reqwest::redirect::{Attempt, Policy};
use rustls::CertificateError;
use stage::date::day;
use stage::{Code, Context, Doing, signal};
use std::cell::OnceCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(20);

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// How much is handed over at once, and how many such pieces may wait.
const PIECE: usize = 1 << 16;
const WAITING: usize = 8;

/// How long a signal may wait for an answer.
const LOOK: Duration = Duration::from_millis(100);

/// What a server says before the first byte of the file.
#[derive(Debug)]
pub(crate) struct Head {
    /// The status: 200, 404 and so on.
    pub(crate) status: u16,
    /// The status in words.
    pub(crate) words: String,
    /// How long the file is, where the server says so.
    pub(crate) length: Option<u64>,
}

/// What the thread that downloads has to tell.
#[derive(Debug)]
pub(crate) enum Event {
    Head(Head),
    Piece(Vec<u8>),
    End,
}

/// What asks servers. Nothing is set up before it is needed.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    context: &'a Context,
    timeout: Duration,
    client: OnceCell<Client>,
}

/// A file on its way.
#[derive(Debug)]
pub(crate) enum Transfer {
    /// From a thread that downloads it.
    Remote(Receiver<Result<Event, Fault>>),
    /// From a directory of this host.
    Local(File),
}

impl<'a> Asker<'a> {
    pub(crate) fn new(context: &'a Context, timeout: Duration) -> Self {
        Self {
            context,
            timeout,
            client: OnceCell::new(),
        }
    }

    /// Asks for a file, and returns what the server says of it.
    pub(crate) fn get(&self, url: &str) -> Result<(Head, Transfer), Stop> {
        if let Some(path) = url.strip_prefix("file://") {
            return local(path);
        }
        let url = Url::parse(url).map_err(|e| Fault::new(Code::Failed, e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            let why = format!(
                "'{}' is not spoken here: http, https and file are",
                url.scheme()
            );
            return Err(Fault::new(Code::Failed, why).into());
        }
        let client = match self.client.get() {
            Some(client) => client.clone(),
            None => {
                let client = self.client(url.scheme() == "https")?;
                self.client.get_or_init(|| client).clone()
            }
        };
        let (events, receiver) = sync_channel(WAITING);
        let timeout = self.timeout;
        std::thread::Builder::new()
            .name("download".into())
            .spawn(move || {
                if let Err(Some(fault)) = download(&client, url, &events, timeout) {
                    // Where nobody wants the download any more, nobody wants to know why it failed.
                    drop(events.send(Err(fault)));
                }
            })
            .doing(Code::Os, || "starting the download")?;
        let mut transfer = Transfer::Remote(receiver);
        match transfer.event()? {
            Event::Head(head) => Ok((head, transfer)),
            Event::Piece(_) | Event::End => Err(lost().into()),
        }
    }

    /// Makes the client. TLS is set up by us: reqwest's own verifier fails on a host without certificates, which is just the
    /// host that a bootstrap runs on.
    fn client(&self, https: bool) -> Result<Client, Stop> {
        let failed = |why: String| Fault::new(Code::Failed, why);
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        if roots.add_parsable_certificates(found.certs).0 == 0 {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            if https {
                let text = "this host has no certificate authorities: using those of this program";
                self.context.warn(text);
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
            .redirect(Policy::custom(redirect))
            .user_agent(concat!("strapline/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(self.timeout))
            .timeout(self.timeout)
            .build();
        Ok(built.map_err(|e| failed(format!("setting up HTTP: {}", cause(&e))))?)
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
            Event::Head(_) => Err(lost().into()),
        }
    }

    /// Waits for what the thread has to tell, or for a signal.
    fn event(&mut self) -> Result<Event, Stop> {
        let Self::Remote(events) = self else {
            return Err(lost().into());
        };
        loop {
            signal::check()?;
            match events.recv_timeout(LOOK) {
                Ok(event) => return Ok(event?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(lost().into()),
            }
        }
    }
}

/// The thread that downloads ended without a word: it has a bug.
fn lost() -> Fault {
    Fault::new(Code::Failed, "the download ended without a reason")
}

/// Opens a file of a `file://` server as if it were downloaded.
fn local(path: &str) -> Result<(Head, Transfer), Stop> {
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
    let head = Head {
        status: 200,
        words: String::new(),
        length: Some(meta.len()),
    };
    Ok((head, Transfer::Local(File::open(path).map_err(fault)?)))
}

/// The thread's work. `Err(None)` says that nobody wants the file any more.
fn download(
    client: &Client,
    url: Url,
    events: &SyncSender<Result<Event, Fault>>,
    timeout: Duration,
) -> Result<(), Option<Fault>> {
    let send = |event| events.send(Ok(event)).map_err(|_| None);
    let mut response = client.get(url).send().map_err(|e| refused(&e, timeout))?;
    send(Event::Head(head(&response)))?;
    let mut bytes = 0;
    let mut pace = Pace::default();
    loop {
        let mut piece = vec![0; PIECE];
        let begin = Instant::now();
        let n = match response.read(&mut piece) {
            Ok(0) => return send(Event::End),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(Some(broken(&e, bytes, timeout))),
        };
        if pace.crawls(n as u64, begin.elapsed(), timeout) {
            let why = format!(
                "too slow: less than {SLOWEST} bytes a second for {} s",
                timeout.as_secs()
            );
            return Err(Some(Fault::new(Code::Network, why)));
        }
        piece.truncate(n);
        bytes += n;
        send(Event::Piece(piece))?;
    }
}

/// Why a server gave no answer.
fn refused(error: &reqwest::Error, timeout: Duration) -> Fault {
    // Who does not take the call, or takes it and is silent, will not do better at once.
    if error.is_timeout() {
        return Fault::new(Code::Network, stalled(timeout));
    }
    if let Some(why) = impostor(error) {
        let fault = Fault::new(Code::NotVerified, cause(error));
        return match hint(why, SystemTime::now()) {
            Some(hint) => fault.hint(hint),
            None => fault,
        };
    }
    if error.is_redirect() {
        // A mirror in the middle of a move may stop redirecting; one that leads away from https will not.
        let away = find::<Unencrypted>(error).is_some();
        let code = if away { Code::Failed } else { Code::Network };
        return Fault::new(code, cause(error));
    }
    let fault = Fault::new(Code::Network, cause(error));
    match error.is_connect() {
        true => fault,
        false => fault.again(),
    }
}

/// Why the body ended before its end.
fn broken(error: &std::io::Error, bytes: usize, timeout: Duration) -> Fault {
    let timed_out = find::<reqwest::Error>(error).is_some_and(reqwest::Error::is_timeout);
    let why = match timed_out {
        true => stalled(timeout),
        false => cause(error),
    };
    let why = format!("the connection broke after {bytes} bytes: {why}");
    let fault = Fault::new(Code::Network, why);
    // A server that sent something before it fell silent is worth another try.
    match timed_out && bytes == 0 {
        true => fault,
        false => fault.again(),
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

/// A redirect from https to what is not encrypted.
#[derive(Debug)]
struct Unencrypted(String);

impl std::fmt::Display for Unencrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a redirect from https to '{}', which is not encrypted",
            self.0
        )
    }
}

impl std::error::Error for Unencrypted {}

/// Follows redirects, but none away from https.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let before = attempt.previous();
    if before.len() > REDIRECTS {
        return attempt.error(format!("redirected more than {REDIRECTS} times"));
    }
    let secure = before.last().is_some_and(|url| url.scheme() == "https");
    if secure && attempt.url().scheme() != "https" {
        let to = crate::server::shown(attempt.url().as_str());
        return attempt.error(Unencrypted(to));
    }
    attempt.follow()
}

fn head(response: &Response) -> Head {
    let length = response.headers().get(CONTENT_LENGTH);
    Head {
        status: response.status().as_u16(),
        words: response.status().to_string(),
        length: length.and_then(|text| text.to_str().ok()?.parse().ok()),
    }
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

/// Returns the first error of this type, of those that led to `error`.
fn find<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
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

/// Returns why the other side could not prove who it is, where that is the matter.
fn impostor<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    match find(error)? {
        rustls::Error::InvalidCertificate(why) => Some(why),
        _ => None,
    }
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
