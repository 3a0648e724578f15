//! Web pages, where an archive was to be: what a captive portal, a proxy that wants a login and a mirror that moved send,
//! with the status 200.

/// What helps against one.
pub const HINT: &str = "the network may want a login: open any page in a browser; or a proxy is missing (http_proxy), or the \
                        mirror has moved: give another with --server URL. Then run it again";

/// Returns whether a file begins as HTML does. No compressed file and no signature begins with a `<`.
#[must_use]
pub fn is_web_page(start: &[u8]) -> bool {
    const TAGS: [&str; 8] = ["<!doctype html", "<html", "<head", "<body", "<script", "<meta", "<?xml", "<!--"];
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    TAGS.iter().any(|tag| text.get(..tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_page_is_known_by_how_it_begins() {
        for page in
            ["<!DOCTYPE html>\n<html>", "\n  <html lang=en>", "\u{feff}<!-- x --><html>", "<META http-equiv=refresh>"]
        {
            assert!(is_web_page(page.as_bytes()), "{page}");
        }
        for other in [&b"\x1f\x8b\x08<html>"[..], b"", b"<", b"core/desc", b"\x28\xb5\x2f\xfd"] {
            assert!(!is_web_page(other), "{other:?}");
        }
    }
}
