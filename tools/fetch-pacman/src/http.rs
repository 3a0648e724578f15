//! Downloading a file into memory, over HTTP or from a directory of this host.
//!
//! reqwest's blocking calls cannot be interrupted by a signal, and its runtime waits for a name look-up that hangs when
//! it is dropped. So a thread of our own makes the calls, and we look for a signal ten times a second. The thread ends with
//! the process.

use package::page::{self, is_web_page};
use reqwest::Url;
use reqwest::blocking::Client;
use reqwest::header::CONTENT_LENGTH;
use reqwest::redirect::{Action, Attempt, Policy};
use rustls::CertificateError;
use stage::date::day;
use stage::message::without_password;
use stage::{Code, Context, Doing, Failure, Progress, Unit, quote, signal};
use std::cell::OnceCell;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

const REDIRECTS: usize = 10;

/// How long to wait before each further attempt at the same server.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// How long a signal may wait for an answer.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// What is known of a file before it is downloaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// The most bytes that it may have, and why.
    pub(crate) limit: u64,
    pub(crate) limit_reason: &'static str,
    /// Its size.
    pub(crate) size: Option<u64>,
}

impl Expected {
    fn check_size(&self, bytes: u64) -> Result<(), Failed> {
        if bytes <= self.limit {
            return Ok(());
        }
        let why = format!("larger than the {} bytes {}", self.limit, self.limit_reason);
        Err(Failure::new(Code::NotVerified, why).into())
    }
}

/// Why an attempt failed, and whether another one at the same server may succeed.
#[derive(Debug)]
struct Failed {
    failure: Failure,
    retry: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, retry: false }
    }
}

fn network(why: impl std::fmt::Display, retry: bool) -> Failed {
    Failed { failure: Failure::new(Code::Network, why), retry }
}

/// Asks servers. It is set up for the first file that needs it.
#[derive(Debug)]
pub(crate) struct HttpClient<'a> {
    pub(crate) context: &'a Context,
    pub(crate) timeout: Duration,
    pub(crate) client: OnceCell<Client>,
}

impl HttpClient<'_> {
    /// Downloads a file. `progress` is what it is called while it is downloaded, where it takes long enough for that.
    pub(crate) fn download(&self, url: &str, expected: Expected, progress: Option<&str>) -> Result<Vec<u8>, Failure> {
        let mut pauses = PAUSES.iter();
        loop {
            let progress = self.progress(progress, expected.size);
            let result = match url.strip_prefix("file://") {
                Some(path) => read_local(Path::new(path), expected),
                None => self.attempt(url, expected, &progress),
            };
            progress.end();
            let failed = match result {
                Ok(bytes) => return Ok(bytes),
                Err(failed) => failed,
            };
            let Some(pause) = pauses.next().filter(|_| failed.retry) else {
                return Err(failed.failure);
            };
            self.context.note(format_args!(
                "fetching {}: {}: trying again",
                quote(without_password(url)),
                failed.failure
            ));
            signal::wait(*pause)?;
        }
    }

    /// Downloads a file in a thread, and waits for it or a signal.
    fn attempt(&self, url: &str, expected: Expected, progress: &Progress) -> Result<Vec<u8>, Failed> {
        let url = Url::parse(url).doing(Code::Failed, || "reading the URL")?;
        if !matches!(url.scheme(), "http" | "https") {
            let why = format!("'{}' is not supported: http, https and file are", url.scheme());
            return Err(Failure::new(Code::Failed, why).into());
        }
        let client = match self.client.get() {
            Some(client) => client.clone(),
            None => {
                let client = self.make_client(url.scheme() == "https")?;
                self.client.get_or_init(|| client).clone()
            }
        };
        let (sender, receiver) = sync_channel(1);
        let (timeout, progress) = (self.timeout, progress.clone());
        let work = move || {
            // Where nobody waits any more, nobody wants the file.
            drop(sender.send(get(&client, url, expected, timeout, &progress)));
        };
        std::thread::Builder::new().spawn(work).doing(Code::Os, || "starting the download")?;
        loop {
            signal::check()?;
            match receiver.recv_timeout(SIGNAL_INTERVAL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(Code::Os, "downloading: the thread died").into());
                }
            }
        }
    }

    /// Makes the client. We set up TLS: reqwest's own verifier fails on a host without certificates, as many a host of a
    /// bootstrap is.
    fn make_client(&self, https: bool) -> Result<Client, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        if roots.add_parsable_certificates(found.certs).0 == 0 {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            if https {
                self.context.warn("this host has no certificate authorities: using those of this program");
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .doing(Code::Failed, || "setting up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // With a configuration of ours nobody else sets it, and HTTP/2 is silently lost.
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::custom(redirect))
            .user_agent(concat!("strapline/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(self.timeout))
            .timeout(self.timeout)
            .build()
            .map_err(|e| cause(&e))
            .doing(Code::Failed, || "setting up HTTP")
    }

    /// Begins a download that somebody waits for.
    fn progress(&self, name: Option<&str>, size: Option<u64>) -> Progress {
        let Some(name) = name else { return Progress::hidden() };
        let progress = self.context.progress("downloading", Unit::Bytes, size);
        progress.item(name);
        progress
    }
}

/// Reads a file of a `file://` server.
fn read_local(path: &Path, expected: Expected) -> Result<Vec<u8>, Failed> {
    let failed = |e: std::io::Error| {
        Failure::new(if e.kind() == ErrorKind::NotFound { Code::NotFound } else { Code::Failed }, e)
    };
    let mut bytes = Vec::new();
    stage::file::open(path).and_then(|file| file.take(expected.limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    expected.check_size(bytes.len() as u64)?;
    check_content(&bytes)?;
    Ok(bytes)
}

/// Refuses a web page.
fn check_content(start: &[u8]) -> Result<(), Failure> {
    match is_web_page(start) {
        true => Err(Failure::new(Code::Network, "a web page came in its place").hint(page::HINT)),
        false => Ok(()),
    }
}

/// The work of the thread.
fn get(
    client: &Client,
    url: Url,
    expected: Expected,
    timeout: Duration,
    progress: &Progress,
) -> Result<Vec<u8>, Failed> {
    let mut response = client.get(url).send().map_err(|e| explain_refusal(&e, timeout))?;
    let status = response.status();
    if status != 200 {
        let why = format!("HTTP status {status}");
        return Err(match status.as_u16() {
            404 | 410 => Failure::new(Code::NotFound, why).into(),
            408 | 425 | 429 | 500 | 502..=504 => network(why, true),
            501 | 505.. => network(why, false),
            _ => Failure::new(Code::Failed, why).into(),
        });
    }
    let length = response.headers().get(CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|text| text.to_str().ok()?.parse().ok());
    expected.check_size(length.unwrap_or_default())?;
    let mut bytes = Vec::new();
    let mut piece = vec![0; 1 << 16];
    let mut pace = Pace::default();
    loop {
        let begin = Instant::now();
        let n = match response.read(&mut piece) {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(explain_break(&e, bytes.len(), timeout)),
        };
        if n == 0 {
            break;
        }
        if pace.is_too_slow(n as u64, begin.elapsed(), timeout) {
            let why = format!("too slow: less than {SLOWEST} bytes a second for {} s", timeout.as_secs());
            return Err(network(why, false));
        }
        if bytes.is_empty() {
            check_content(&piece[..n])?;
        }
        bytes.extend_from_slice(&piece[..n]);
        expected.check_size(bytes.len() as u64)?;
        progress.set(bytes.len() as u64);
    }
    let is_short = |size| (bytes.len() as u64) < size;
    if length.is_none() && expected.size.is_some_and(is_short) {
        let why = format!("the connection ended after {} bytes", bytes.len());
        return Err(network(why, true));
    }
    Ok(bytes)
}

/// Returns why a server gave no answer.
fn explain_refusal(error: &reqwest::Error, timeout: Duration) -> Failed {
    // A server that accepts no connection, or is silent after that, will not do better at once.
    if error.is_timeout() {
        return network(stalled(timeout), false);
    }
    if let Some(failure) = find::<Failure>(error) {
        return failure.clone().into();
    }
    if let Some(rustls::Error::InvalidCertificate(why)) = find(error) {
        let failure = Failure::new(Code::NotVerified, cause(error));
        let hint = certificate_hint(why, SystemTime::now());
        return Failure { hint, ..failure }.into();
    }
    network(cause(error), !error.is_connect())
}

/// Returns why the body ended early.
fn explain_break(error: &std::io::Error, bytes: usize, timeout: Duration) -> Failed {
    let timed_out = find::<reqwest::Error>(error).is_some_and(reqwest::Error::is_timeout);
    let why = if timed_out { stalled(timeout) } else { cause(error) };
    // A server that sent something before it fell silent is worth another attempt.
    network(format!("the connection broke after {bytes} bytes: {why}"), !timed_out || bytes > 0)
}

/// The fewest bytes a second: with less a package takes hours, and another server or another day is better.
const SLOWEST: u64 = 1024;

/// How fast a file comes. Only the time spent waiting for it counts.
#[derive(Debug, Default)]
struct Pace {
    bytes: u64,
    time: Duration,
}

impl Pace {
    /// Adds what came, and returns whether that was too little in the last `limit`.
    fn is_too_slow(&mut self, bytes: u64, time: Duration, limit: Duration) -> bool {
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

/// Follows redirects, but none away from https.
fn redirect(attempt: Attempt<'_>) -> Action {
    let before = attempt.previous();
    if before.len() > REDIRECTS {
        let why = format!("redirected more than {REDIRECTS} times");
        // A mirror in the middle of a move may stop redirecting.
        return attempt.error(Failure::new(Code::Network, why));
    }
    let secure = before.last().is_some_and(|url| url.scheme() == "https");
    if secure && attempt.url().scheme() != "https" {
        let to = without_password(attempt.url().as_str());
        let why = format!("a redirect from https to '{to}', which is not encrypted");
        return attempt.error(Failure::new(Code::Failed, why));
    }
    attempt.follow()
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
fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An io::Error's source is not what it wraps, but the source of that.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map_or_else(|| error.source(), |inner| Some(inner));
    }
    None
}

/// Returns a hint for a certificate that is refused.
fn certificate_hint(why: &CertificateError, now: SystemTime) -> Option<String> {
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
            "for a certificate authority of your own, set SSL_CERT_FILE to a file with its certificate and the others that \
             are needed"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_slow_is_measured_by_the_time_spent_waiting() {
        let (second, limit) = (Duration::from_secs(1), Duration::from_secs(3));
        let mut pace = Pace::default();
        assert!(!pace.is_too_slow(SLOWEST, second, limit));
        assert!(!pace.is_too_slow(0, second, limit));
        assert!(!pace.is_too_slow(2 * SLOWEST, second, limit), "fast enough");
        assert!(!pace.is_too_slow(5 * SLOWEST, second, limit), "a new beginning");
        assert!(!pace.is_too_slow(1, 2 * second, limit));
        assert!(!pace.is_too_slow(1, Duration::ZERO, limit));
        assert!(pace.is_too_slow(1, 3 * second, limit));
    }

    #[test]
    fn a_clock_that_is_wrong_is_named() {
        let now = UNIX_EPOCH + Duration::from_secs(86_400);
        let hint = certificate_hint(&CertificateError::NotValidYet, now).unwrap();
        assert!(hint.starts_with("this host's clock says 1970-01-02:"), "{hint}");
    }
}
