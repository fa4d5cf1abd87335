//! PEM parser (RFC 7468). Each line is understood or refused: a silently skipped block would remove a certificate from
//! a chain, or readmit a revoked client. Messages quote only the labels of blocks.

#[cfg(test)]
mod tests;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::translate::references::ReferencedText;

/// The lines between a BEGIN line and an END line, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    pub label: PemLabel,
    /// Number of its BEGIN line, counted from 1.
    pub line: usize,
    pub der: Vec<u8>,
}

/// Labels allowed in texts of certificates, keys or lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemLabel {
    Certificate,
    /// A list of revoked certificates.
    Crl,
    Pkcs8Key,
    Pkcs1Key,
    Sec1Key,
    /// Encrypted key of either form, which cannot be used.
    EncryptedKey,
    /// Parameters of elliptic curves, Diffie-Hellman or DSA: tools write them next to keys, which contain the same.
    Parameters,
}

/// The first error in a text.
#[derive(Debug, PartialEq, Eq)]
pub struct PemError {
    /// Counted from 1.
    pub line: usize,
    pub problem: String,
}

impl PemError {
    fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}

const MARK: &str =
    "write `-----BEGIN …-----` and `-----END …-----` each on a line of its own, from its first column on";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl ReferencedText<'_> {
    /// Parses the blocks of a PEM text.
    pub fn blocks(&self) -> Result<Vec<Block>, String> {
        let title = &self.title;
        blocks(self.bytes).map_err(|PemError { line, problem }| format!("{title} is not PEM at line {line}: {problem}"))
    }
}

/// Parses all blocks. Explanatory text between them and a leading byte order mark are ignored.
///
/// # Errors
/// If any line is neither an explanation nor part of a whole block with a known label.
fn blocks(text: &[u8]) -> Result<Vec<Block>, PemError> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut blocks = Vec::new();
    let mut open: Option<Open> = None;
    let mut wrapped = WrappedBase64::default();
    for (number, line) in (1..).zip(lines(text)) {
        let line = as_text(line, number, text)?;
        match &mut open {
            None => {
                open = outside(line, number)?;
                wrapped.add(line, number)?;
            }
            Some(block) if mark(line) == Some(Mark::End(block.name)) => {
                blocks.extend(open.take().map(Open::close).transpose()?);
            }
            Some(block) => block.add(line, number)?,
        }
    }
    match open {
        Some(block) => Err(block.unfinished()),
        None => Ok(blocks),
    }
}

/// Splits a text at LF, CR LF or CR.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .flat_map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b'\r'))
}

/// A line without trailing white space; bytes that are not ASCII may be in any encoding.
fn as_text<'a>(line: &'a [u8], number: usize, text: &[u8]) -> Result<&'a [u8], PemError> {
    let is_utf_16 =
        text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") || text.iter().take(4).any(|b| *b == 0);
    if number == 1 && is_utf_16 {
        return Err(PemError::new(1, "the text is in UTF-16: save it as UTF-8"));
    }
    if line.iter().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\x0c')) {
        let problem = "the text has binary bytes: write PEM; `openssl x509 -inform DER`, `openssl crl -inform DER` and \
                       `openssl pkey -inform DER` convert DER";
        return Err(PemError::new(number, problem));
    }
    if line.windows(BYTE_ORDER_MARK.len()).any(|bytes| bytes == BYTE_ORDER_MARK) {
        return Err(PemError::new(number, "there is a byte order mark within the text: remove it"));
    }
    Ok(line.trim_ascii_end())
}

#[derive(Debug, PartialEq, Eq)]
enum Mark<'a> {
    Begin(&'a str),
    End(&'a str),
}

/// Parses a line that consists of a mark.
fn mark(line: &[u8]) -> Option<Mark<'_>> {
    let line = str::from_utf8(line).ok()?.strip_prefix("-----")?.strip_suffix("-----")?;
    let (mark, label): (fn(_) -> _, _) = match line.strip_prefix("BEGIN ") {
        Some(label) => (Mark::Begin, label),
        None => (Mark::End, line.strip_prefix("END ")?),
    };
    let is_label = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, ' ' | '.' | '#');
    (label.len() <= 40 && label.chars().all(is_label)).then(|| mark(label))
}

/// A block without its end.
struct Open<'a> {
    name: &'a str,
    label: PemLabel,
    line: usize,
    base64: Vec<u8>,
    /// True while its headers (RFC 1421) continue.
    in_headers: bool,
}

impl Open<'_> {
    fn add(&mut self, line: &[u8], number: usize) -> Result<(), PemError> {
        if line.iter().any(|byte| *byte == b'-' || !byte.is_ascii()) && looks_like_a_mark(line) {
            let problem =
                format!("the block that begins at line {} has no END line before this one: {MARK}", self.line);
            return Err(PemError::new(number, problem));
        }
        if line.starts_with(b"Proc-Type:") && self.base64.is_empty() && line.ends_with(b"ENCRYPTED") {
            (self.label, self.in_headers) = (self.encrypted(number)?, true);
        }
        if self.in_headers {
            self.in_headers = !line.is_empty();
            return Ok(());
        }
        let start = self.base64.len();
        self.base64.extend(line.iter().filter(|byte| !matches!(byte, b' ' | b'\t' | b'\x0c')));
        match self.base64[start..].iter().all(|byte| is_base64(*byte)) {
            true => Ok(()),
            false => Err(PemError::new(number, "this is not base64: write the block as issued")),
        }
    }

    /// The label of this block with an encryption header, which only keys can have.
    fn encrypted(&self, number: usize) -> Result<PemLabel, PemError> {
        match self.label {
            PemLabel::Pkcs8Key | PemLabel::Pkcs1Key | PemLabel::Sec1Key | PemLabel::EncryptedKey => {
                Ok(PemLabel::EncryptedKey)
            }
            PemLabel::Certificate | PemLabel::Crl | PemLabel::Parameters => {
                let Self { name, line, .. } = self;
                let problem = format!(
                    "the block `{name}` that begins at line {line} is encrypted, which only keys can be: write the \
                     block as issued"
                );
                Err(PemError::new(number, problem))
            }
        }
    }

    fn close(self) -> Result<Block, PemError> {
        let Self { label, line, base64, .. } = self;
        let problem = "the block that begins here is not base64, or is incomplete: write it as issued";
        let der = STANDARD.decode(&base64).map_err(|_| PemError::new(line, problem))?;
        Ok(Block { label, line, der })
    }

    fn unfinished(&self) -> PemError {
        PemError::new(self.line, "the block that begins here has no END line: write the complete text")
    }
}

/// Checks a line outside of blocks.
fn outside(line: &[u8], number: usize) -> Result<Option<Open<'_>>, PemError> {
    match mark(line) {
        Some(Mark::Begin(name)) => {
            let label = label(name).map_err(|problem| PemError::new(number, problem))?;
            Ok(Some(Open { name, label, line: number, base64: Vec::new(), in_headers: false }))
        }
        Some(Mark::End(_)) => Err(PemError::new(number, format!("this block has no BEGIN line: {MARK}"))),
        None if looks_like_a_mark(line) => Err(PemError::new(
            number,
            format!("this looks like the beginning or the end of a block, but is malformed: {MARK}"),
        )),
        None if looks_like_twice_encoded(line) => {
            Err(PemError::new(number, "this is a PEM text encoded as base64 once too often: remove one encoding"))
        }
        None if looks_like_base64(line) => Err(outside_of_blocks(number)),
        None => Ok(None),
    }
}

/// The label of a block of this name, or advice for another one.
fn label(name: &str) -> Result<PemLabel, String> {
    let instead = match name {
        "CERTIFICATE" | "X509 CERTIFICATE" => return Ok(PemLabel::Certificate),
        "X509 CRL" => return Ok(PemLabel::Crl),
        "PRIVATE KEY" => return Ok(PemLabel::Pkcs8Key),
        "RSA PRIVATE KEY" => return Ok(PemLabel::Pkcs1Key),
        "EC PRIVATE KEY" => return Ok(PemLabel::Sec1Key),
        "ENCRYPTED PRIVATE KEY" => return Ok(PemLabel::EncryptedKey),
        "EC PARAMETERS" | "DH PARAMETERS" | "X9.42 DH PARAMETERS" | "DSA PARAMETERS" => {
            return Ok(PemLabel::Parameters);
        }
        "TRUSTED CERTIFICATE" => "write it as CERTIFICATE: `openssl x509` does",
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => "write the certificate that was issued for it",
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => "write the certificates in it: `openssl pkcs7 -print_certs` does",
        "OPENSSH PRIVATE KEY" | "DSA PRIVATE KEY" | "ANY PRIVATE KEY" => {
            "write an ECDSA, Ed25519 or RSA key as `openssl genpkey` writes it"
        }
        _ => "remove it",
    };
    Err(format!("a block `{name}` has no effect here: {instead}"))
}

/// True if a line looks like a damaged mark: joined to other text, indented, commented out, or without some dashes.
fn looks_like_a_mark(line: &[u8]) -> bool {
    const KINDS: [&str; 6] = ["CERT", "KEY", "CRL", "PARAMETERS", "PKCS", "CMS"];
    // Dashes of word processors.
    const DASHES: [char; 10] = [
        '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2015}', '\u{2212}', '\u{fe58}', '\u{fe63}',
        '\u{ff0d}',
    ];

    if [&b"-----BEGIN"[..], b"-----END"].iter().any(|mark| line.windows(mark.len()).any(|part| part == *mark)) {
        return true;
    }
    let line = String::from_utf8_lossy(line).to_ascii_uppercase();
    let line = line.replace(DASHES, "--");
    let words = line.trim_matches(|c: char| c == '-' || c.is_whitespace());
    let Some(named) = words.strip_prefix("BEGIN ").or(words.strip_prefix("END ")) else {
        let after_dashes = |word: &str| {
            line.split("--").skip(1).any(|rest| rest.trim_start_matches('-').trim_start().starts_with(word))
        };
        return KINDS.iter().any(|kind| line.contains(kind)) && (after_dashes("BEGIN ") || after_dashes("END "));
    };
    label(named.trim()).is_ok() || (line.starts_with("--") && KINDS.iter().any(|kind| named.contains(kind)))
}

fn outside_of_blocks(line: usize) -> PemError {
    PemError::new(line, format!("this looks like a part of a block, but is outside of any block: {MARK}"))
}

/// Long enough to exclude words and checksums.
fn looks_like_base64(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let has = |is: fn(&u8) -> bool| line.iter().any(is);
    line.len() >= 40
        && line.iter().all(|byte| is_base64(*byte))
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

/// Consecutive lines of the same length outside of blocks. Base64 is wrapped in this way, also in lines that are too
/// short to tell them from words.
#[derive(Default)]
struct WrappedBase64 {
    /// Number of the first line.
    line: usize,
    width: usize,
    /// The number of characters of all lines.
    length: usize,
    /// Characters that checksums do not have.
    has_uppercase: bool,
    has_lowercase: bool,
    has_digit: bool,
}

/// More characters than consecutive words of the same length have, and fewer than a certificate, list or key.
const MIN_WRAPPED: usize = 100;

impl WrappedBase64 {
    /// Adds a line.
    ///
    /// # Errors
    /// If the lines together look like base64.
    fn add(&mut self, line: &[u8], number: usize) -> Result<(), PemError> {
        let line = line.trim_ascii();
        if line.is_empty() || !line.iter().all(|byte| is_base64(*byte)) {
            *self = Self::default();
            return Ok(());
        }
        if line.len() != self.width {
            *self = Self { line: number, width: line.len(), ..Self::default() };
        }
        self.length += line.len();
        self.has_uppercase |= line.iter().any(|byte| matches!(byte, b'G'..=b'Z'));
        self.has_lowercase |= line.iter().any(|byte| matches!(byte, b'g'..=b'z'));
        self.has_digit |= line.iter().any(u8::is_ascii_digit);
        match self.length >= MIN_WRAPPED && self.has_uppercase && self.has_lowercase && self.has_digit {
            true => Err(outside_of_blocks(self.line)),
            false => Ok(()),
        }
    }
}

fn looks_like_twice_encoded(line: &[u8]) -> bool {
    // `-----BEGIN ` in base64.
    line.trim_ascii_start().starts_with(b"LS0tLS1CRUdJTi")
}
