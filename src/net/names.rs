//! Header names keep the case they came in, from one side to the other.
//!
//! Names are compared without regard to case (RFC 9110 §5.1), and hyper writes them in lower case;
//! but there are programs that look for `ETag`. hyper can carry a second map with the original
//! names along, for most of the allocations of an exchange. Here the head is noted as it comes in,
//! and the names are put over those of the head that goes out, byte for byte: they have the same
//! length.

/// The most that is noted of a head. Names beyond it go out as [`capitalise`] has them.
const NOTED: usize = 16 * 1024;

/// As many names as are given back their case; hyper refuses heads with more lines than 100.
const NAMES: usize = 100;

/// A read of at most this many bytes is noted as it is; in a larger one the end of the head is
/// looked for, so that no body is copied.
const SMALL: usize = 1024;

/// The head of one message as it came over the wire, for the sake of its names.
#[derive(Clone, Debug, Default)]
pub struct WireNames {
    /// From the first byte that came: maybe blank lines and interim responses first, maybe some of
    /// the body after it.
    text: Vec<u8>,
    stopped: bool,
}

impl WireNames {
    /// Forgets the last message; the next bytes begin a new one.
    pub fn clear(&mut self) {
        self.text.clear();
        self.stopped = false;
    }

    /// Forgets the last message, and notes nothing until [`clear`](Self::clear).
    pub fn stop(&mut self) {
        self.text.clear();
        self.stopped = true;
    }

    /// Notes the next bytes of the message.
    pub fn note(&mut self, bytes: &[u8]) {
        if self.stopped {
            return;
        }
        let before = self.text.len();
        let room = NOTED - before;
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > SMALL {
            let head = start_of_head(&self.text);
            if let Some(end) = end_of_head(&self.text, head.max(before.saturating_sub(2))) {
                self.text.truncate(end);
                self.stopped = true;
            }
        }
    }

    /// Gives the names in the outgoing `head`, which are in lower case, the case they were noted
    /// in; names that were not are capitalised. Stops at the end of the head.
    ///
    /// A status line of 1.0 is made one of 1.1: that is what the library writes to clients of 1.0, and
    /// what a server of 1.1 says (RFC 9110 §6.2; Apache httpd 2.4, `basic_http_header`).
    pub fn restore(&self, head: &mut [u8]) {
        if head.starts_with(b"HTTP/1.0 ") {
            head[b"HTTP/1.".len()] = b'1';
        }
        // An interim response of ours may stand before the head; it has no header lines.
        let mut next = next_line(head, start_of_head(head));
        let mut noted = next_line(&self.text, start_of_head(&self.text)).unwrap_or(self.text.len());
        let mut names = None;
        while let Some(at) = next {
            let line = &mut head[at..];
            if matches!(line, [b'\r' | b'\n', ..]) {
                return;
            }
            // Lines mostly go out as they came, in their order.
            if let Some(length) = self.restore_same(noted, line) {
                noted += length;
                next = Some(at + length);
                continue;
            }
            let Some(length) = find(b':', line) else {
                return;
            };
            let names = names.get_or_insert_with(|| self.names());
            match names.find(&self.text, noted, line, length) {
                Some(found) => {
                    line[..length].copy_from_slice(&self.text[found..found + length]);
                    noted = next_line(&self.text, found + length).unwrap_or(self.text.len());
                }
                None => capitalise(&mut line[..length]),
            }
            next = next_line(head, at + length);
        }
    }

    /// If `line` is the one noted at `noted` but for the case of its name: restores that, and says
    /// how long the line is.
    fn restore_same(&self, noted: usize, line: &mut [u8]) -> Option<usize> {
        let text = &self.text[noted..];
        let name = find(b':', text)?;
        if line.get(name) != Some(&b':') || !is_lower_case_of(line, text, name) {
            return None;
        }
        let end = next_line(text, name)?;
        (line.get(name..end)? == &text[name..end]).then(|| {
            line[..name].copy_from_slice(&text[..name]);
            end
        })
    }

    /// Where the names stand, in their order.
    fn names(&self) -> Names {
        let mut names = Names {
            list: [Name::default(); NAMES],
            count: 0,
        };
        let mut next = next_line(&self.text, start_of_head(&self.text));
        while let Some(at) = next
            && !matches!(self.text[at..], [] | [b'\r' | b'\n', ..])
            && let Some(free) = names.list.get_mut(names.count)
            && let Some(length) = find(b':', &self.text[at..])
        {
            let short = |n: usize| u16::try_from(n).expect("what is noted is shorter than 64 KiB");
            *free = Name {
                at: short(at),
                length: short(length),
            };
            names.count += 1;
            next = next_line(&self.text, at + length);
        }
        names
    }
}

/// Where the names of a noted head stand.
struct Names {
    list: [Name; NAMES],
    count: usize,
}

#[derive(Clone, Copy, Default)]
struct Name {
    at: u16,
    length: u16,
}

impl Names {
    /// Where the name of `length` that `line` begins with stands in `text`: the first from `likely`
    /// on, or else the first of all. A name that was repeated is found behind where it was found
    /// before.
    fn find(&self, text: &[u8], likely: usize, line: &[u8], length: usize) -> Option<usize> {
        let mut first = None;
        for name in &self.list[..self.count] {
            let at = usize::from(name.at);
            if usize::from(name.length) == length && is_lower_case_of(line, &text[at..], length) {
                if at >= likely {
                    return Some(at);
                }
                first = first.or(Some(at));
            }
        }
        first
    }
}

/// Whether the first `length` bytes of `lower` are those of `text` in lower case.
fn is_lower_case_of(lower: &[u8], text: &[u8], length: usize) -> bool {
    let mut at = 0;
    while at < length {
        let (Some(ours), Some(theirs)) = (lower[at..].first_chunk(), text[at..].first_chunk())
        else {
            let mut pairs = lower[at..length].iter().zip(&text[at..length]);
            return pairs.all(|(lower, byte)| *lower == byte.to_ascii_lowercase());
        };
        let difference = u64::from_le_bytes(*ours) ^ lower_case(u64::from_le_bytes(*theirs));
        // Of the last word only what belongs to the name counts; the first byte is the lowest.
        let beyond = 8 * (at + 8).saturating_sub(length);
        if difference << beyond != 0 {
            return false;
        }
        at += 8;
    }
    true
}

/// Eight bytes with their ASCII letters in lower case.
fn lower_case(word: u64) -> u64 {
    let low = word & !HIGH;
    let above_z = low + u64::from(0x7f - b'Z') * LOW;
    let from_a = low + u64::from(0x80 - b'A') * LOW;
    let upper = (from_a ^ above_z) & !word & HIGH;
    word | (upper >> 2)
}

/// A one in every byte of a word, and its highest bit in every byte.
const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = LOW << 7;

/// Writes a name as most do: `x-forwarded-for` as `X-Forwarded-For`.
fn capitalise(name: &mut [u8]) {
    let mut first = true;
    for byte in name {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}

/// Where the head proper begins: after blank lines, and after interim responses (1xx).
fn start_of_head(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &text[at..] {
            [b'\r' | b'\n', ..] => at += 1,
            rest if is_interim(rest) => match end_of_head(rest, 0) {
                Some(end) => at += end,
                None => return text.len(),
            },
            _ => return at,
        }
    }
}

/// Where the head ends, its blank line included. `from` lies in it.
fn end_of_head(text: &[u8], from: usize) -> Option<usize> {
    let mut at = next_line(text, from)?;
    loop {
        match text[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => at = next_line(text, at)?,
        }
    }
}

/// Whether this is the head of an interim response: `HTTP/1.1 1xx`. 101 is the last one of its request.
fn is_interim(head: &[u8]) -> bool {
    head.get(8..10) == Some(b" 1")
        && head.starts_with(b"HTTP/1.")
        && head.get(10..12) != Some(b"01")
}

fn next_line(text: &[u8], from: usize) -> Option<usize> {
    find(b'\n', &text[from..]).map(|end| from + end + 1)
}

/// Where `byte` first stands in `text`, eight bytes at a time.
///
/// A header line has twenty to forty bytes. The memchr crate, whose strength are long texts, spends
/// as many instructions on choosing its way (callgrind).
pub fn find(byte: u8, text: &[u8]) -> Option<usize> {
    let pattern = u64::from(byte) * LOW;
    let (words, rest) = text.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let difference = u64::from_le_bytes(*word) ^ pattern;
        // The lowest bit set marks the first byte that is zero.
        let zeros = difference.wrapping_sub(LOW) & !difference & HIGH;
        if zeros != 0 {
            return Some(number * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&this| this == byte)?;
    Some(words.len() * 8 + at)
}

/// Tells `see` where `byte` stands in `text`, each time, as long as it wants to know more: for many in a
/// short text, of which [`find`] would look at the parts of a word again and again.
pub fn find_all(byte: u8, text: &[u8], mut see: impl FnMut(usize) -> bool) {
    let pattern = u64::from(byte) * LOW;
    let (words, _) = text.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let difference = u64::from_le_bytes(*word) ^ pattern;
        let mut marks = difference.wrapping_sub(LOW) & !difference & HIGH;
        while marks != 0 {
            let at = number * 8 + marks.trailing_zeros() as usize / 8;
            marks &= marks - 1;
            // All but the lowest mark of a word may be those of other bytes.
            if text[at] == byte && !see(at) {
                return;
            }
        }
    }
    for (at, &this) in text.iter().enumerate().skip(words.len() * 8) {
        if this == byte && !see(at) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noted(parts: &[&str]) -> WireNames {
        let mut names = WireNames::default();
        for part in parts {
            names.note(part.as_bytes());
        }
        names
    }

    fn restored(names: &WireNames, head: &str) -> String {
        let mut head = head.as_bytes().to_vec();
        names.restore(&mut head);
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn names_go_out_as_they_came_and_others_capitalised() {
        let names = noted(&[
            "HTTP/1.1 200 OK\r\nETag: x\r\nX-MIXED-case: y\r\nwww-authenticate: z\r\n\r\nbody: b",
        ]);
        assert_eq!(
            restored(
                &names,
                "HTTP/1.1 200 OK\r\nwww-authenticate: etag: 1\r\netag: x\r\nx-mixed-case: y\r\nkeep-alive: t\r\n\r\netag: body"
            ),
            "HTTP/1.1 200 OK\r\nwww-authenticate: etag: 1\r\nETag: x\r\nX-MIXED-case: y\r\nKeep-Alive: t\r\n\r\netag: body"
        );
    }

    #[test]
    fn repeated_names_go_out_in_their_order() {
        let names = noted(&[
            "HTTP/1.1 200 OK\r\nSet-Cookie: 1\r\nA: b\r\nSET-COOKIE: 2\r\nset-cookie: 3\r\n\r\n",
        ]);
        assert_eq!(
            restored(
                &names,
                "HTTP/1.1 200 OK\r\nset-cookie: 1\r\nset-cookie: 2\r\nset-cookie: 3\r\na: b\r\n\r\n"
            ),
            "HTTP/1.1 200 OK\r\nSet-Cookie: 1\r\nSET-COOKIE: 2\r\nset-cookie: 3\r\nA: b\r\n\r\n"
        );
    }

    #[test]
    fn a_switch_of_protocols_is_no_interim_response() {
        let mut names = WireNames::default();
        names.note(b"HTTP/1.1 101 Switching\r\nSec-WebSocket-ACCEPT: x\r\n\r\nfirst: 1\r\n");
        let mut head = *b"HTTP/1.1 101 Switching\r\nsec-websocket-accept: x\r\nupgrade: y\r\n\r\n";
        names.restore(&mut head);
        let expected = b"HTTP/1.1 101 Switching\r\nSec-WebSocket-ACCEPT: x\r\nUpgrade: y\r\n\r\n";
        assert_eq!(head, *expected);
    }

    #[test]
    fn interim_responses_are_passed_over_on_both_ways() {
        let names = noted(&[
            "HTTP/1.1 103 Early Hints\r\nLINK: a\r\n\r\nHTTP/1.1 200",
            " OK\r\nLink: b\r\n\r\n",
        ]);
        assert_eq!(
            restored(
                &names,
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nlink: b\r\n\r\n"
            ),
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nLink: b\r\n\r\n"
        );
    }

    #[test]
    fn a_head_that_comes_in_pieces_is_noted_whole() {
        let text = "\r\nGET / HTTP/1.1\r\nhOST: a\r\nX-Y: z\r\n\r\nleft over";
        for cut in 0..text.len() {
            let names = noted(&[&text[..cut], &text[cut..]]);
            assert_eq!(
                restored(&names, "GET / HTTP/1.1\r\nhost: a\r\nx-y: z\r\n\r\n"),
                "GET / HTTP/1.1\r\nhOST: a\r\nX-Y: z\r\n\r\n",
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_large_read_is_noted_up_to_the_end_of_the_head() {
        let body = "b".repeat(5000);
        let names = noted(&[
            "HTTP/1.1 100 Continue\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\nETag: x\r\n\r\n{body}"),
            &body,
        ]);
        assert!(names.text.ends_with(b"ETag: x\r\n\r\n"));
        assert_eq!(
            restored(&names, "HTTP/1.1 200 OK\r\netag: x\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nETag: x\r\n\r\n"
        );
    }

    proptest! {
        #[test]
        fn lower_case_is_that_of_ascii(bytes: [u8; 8]) {
            let lower = lower_case(u64::from_le_bytes(bytes)).to_le_bytes();
            prop_assert_eq!(lower, bytes.map(|byte| byte.to_ascii_lowercase()));
        }

        #[test]
        fn find_finds_the_first(text in "[a-c]{0,40}") {
            prop_assert_eq!(find(b'c', text.as_bytes()), text.find('c'));
        }

        #[test]
        fn find_all_finds_all(text in "[\n\u{b}\ra]{0,40}") {
            let mut found = Vec::new();
            find_all(b'\n', text.as_bytes(), |at| {
                found.push(at);
                true
            });
            let all: Vec<_> = text.match_indices('\n').map(|(at, _)| at).collect();
            prop_assert_eq!(found, all);
        }

        /// Whatever was noted, only the case of what goes out may change.
        #[test]
        fn nothing_but_case_changes(noted in "[ -~\r\n]{0,200}", head in "[ -~\r\n]{0,200}") {
            let mut names = WireNames::default();
            names.note(noted.as_bytes());
            let restored = restored(&names, &head);
            prop_assert!(restored.eq_ignore_ascii_case(&head));
        }
    }
}
