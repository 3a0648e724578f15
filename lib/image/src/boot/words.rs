//! Words that somebody gives and that stand in lines of a boot loader's configuration.

/// Returns the system's name out of the text of os-release(5), or `Linux`. It stands in lines of a configuration.
pub fn title(os_release: &str) -> String {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
        let plain = line.trim().trim_matches(['"', '\'']);
        let fit = |c: char| !c.is_control() && !"\\\"'`$".contains(c);
        (!plain.is_empty() && plain.len() <= 60 && plain.chars().all(fit)).then(|| plain.to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "Linux".to_owned())
}

/// Checks what is added to the kernel's command line.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn check_cmdline(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("control characters are not allowed".to_owned());
    }
    if text.split_whitespace().any(|word| word.starts_with("root=")) {
        return Err("root= is set by mkdisk".to_owned());
    }
    // COMMAND_LINE_SIZE of most architectures, less what we say.
    if text.len() > 1800 {
        return Err("the command line is longer than 2048 bytes".to_owned());
    }
    Ok(text.trim().to_owned())
}

/// Checks the path of a devicetree.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn check_dtb(text: &str) -> Result<String, String> {
    let fine = |part: &str| is_name(part) && !part.is_empty() && !part.starts_with('.');
    if text.split('/').all(fine) {
        return Ok(text.to_owned());
    }
    Err("not a path below the directory of devicetrees, such as rockchip/rk3588s-orangepi-5.dtb".to_owned())
}

/// Returns whether nothing in a name ends a word, a line or a path.
pub(super) fn is_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}
