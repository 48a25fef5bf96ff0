//! The handshake: options of a client and their answers, until both sides know what is served and how.
//!
//! Works over any stream; how long a client may take is the stream's business (it fails when time is up).
//! Promises: memory is bounded by [`LONGEST_OPTION`], work by [`OPTIONS`]; every option of at most that
//! length is answered, known or not; whoever is not understood is left. Refuses to know the LU: an [`Export`]
//! is all it offers.

use std::io::{Error, ErrorKind, Read, Result, Write};

use super::REQUEST_BYTES;
use super::wire::{self, Contexts, Wanted, can, info, option, reply};

/// Longest data of an option, in bytes. A client that sends more is left.
const LONGEST_OPTION: u32 = 64 << 10;

/// Most options of one handshake. Clients need fewer than ten.
const OPTIONS: usize = 64;

/// The one metadata context, and the number it goes by in replies.
const ALLOCATION: &[u8] = b"base:allocation";
/// What replies of BLOCK_STATUS name [`ALLOCATION`] by.
pub(super) const ALLOCATION_ID: u32 = 1;

/// What is offered.
#[derive(Clone, Debug)]
pub(super) struct Export {
    pub name: String,
    /// For people.
    pub description: String,
    /// In bytes.
    pub size: u64,
    /// Requests of this size and alignment cost least: a power of two from 512 on.
    pub preferred: u32,
    pub read_only: bool,
}

/// How requests and replies look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Headers {
    /// Simple replies.
    #[default]
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers on both, with lengths of 64 bits; replies are structured.
    Extended,
}

/// What was agreed upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Terms {
    /// How requests and replies look.
    pub headers: Headers,
    /// It may ask for `base:allocation`.
    pub allocation: bool,
}

/// How the bytes of a handshake are protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there is only one without TLS"))]
pub(super) enum Security {
    /// They are not, and need not be.
    Clear,
    /// They are not yet: nothing is told before.
    Wanted,
    /// By TLS.
    Secured,
}

/// What comes after an option.
enum Next {
    More,
    Serve,
    Secure,
    Leave,
}

/// What has become of a handshake.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Agreed {
    /// The client is to be served.
    Serve(Terms),
    /// TLS begins; after that [`negotiate`] starts anew, and nothing of what was agreed upon before counts.
    Secure,
    /// It leaves.
    Leave,
}

/// Greets a client. True if it wants the zeroes that EXPORT_NAME is answered with.
///
/// # Errors
/// As [`negotiate`].
pub(super) fn greet(stream: &mut (impl Read + Write)) -> Result<bool> {
    stream.write_all(&wire::greeting())?;
    let flags = u32::from_be_bytes(read(stream)?);
    if flags & !(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES) != 0 {
        return Err(Error::new(ErrorKind::InvalidData, "unknown client flags"));
    }
    Ok(flags & wire::FLAG_NO_ZEROES == 0)
}

/// Talks with a client that was greeted until it wants to be served, or leaves.
///
/// # Errors
/// Those of the stream, its end in the middle of something, and [`ErrorKind::InvalidData`] for a client that
/// is not understood. All mean the same: close.
pub(super) fn negotiate(
    stream: &mut (impl Read + Write),
    export: &Export,
    security: Security,
    zeros: bool,
) -> Result<Agreed> {
    let mut terms = Terms::default();
    for _ in 0..OPTIONS {
        let head = wire::option_head(&read(stream)?);
        let (number, length) = head.ok_or_else(|| Error::new(ErrorKind::InvalidData, "no option"))?;
        if length > LONGEST_OPTION {
            return Err(Error::new(ErrorKind::InvalidData, "an option too long to be meant"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut answer = Vec::new();
        let next = match security {
            Security::Wanted => before_tls(number, &data, &mut answer),
            Security::Clear | Security::Secured => {
                export.answer(number, &data, zeros, security, &mut terms, &mut answer)
            }
        };
        stream.write_all(&answer)?;
        stream.flush()?;
        match next {
            Next::More => {}
            Next::Serve => return Ok(Agreed::Serve(terms)),
            Next::Secure => return Ok(Agreed::Secure),
            Next::Leave => return Ok(Agreed::Leave),
        }
    }
    Err(Error::new(ErrorKind::InvalidData, "no end of options"))
}

fn read<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Appends the answer to one option to `out` while TLS is wanted and not there: nothing is told.
fn before_tls(number: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
    let mut say = |kind: u32, data: &[u8]| out.extend(wire::option_reply(number, kind, data));
    match number {
        // The only refusal this option has.
        option::EXPORT_NAME => return Next::Leave,
        option::ABORT => {
            say(reply::ACK, &[]);
            return Next::Leave;
        }
        option::STARTTLS if data.is_empty() => {
            say(reply::ACK, &[]);
            return Next::Secure;
        }
        option::STARTTLS => say(reply::ERR_INVALID, b"this option has no data"),
        _ => say(reply::ERR_TLS_REQD, b"TLS comes first here"),
    }
    Next::More
}

impl Export {
    /// Appends the answer to one option to `out`.
    fn answer(
        &self,
        number: u32,
        data: &[u8],
        zeros: bool,
        security: Security,
        terms: &mut Terms,
        out: &mut Vec<u8>,
    ) -> Next {
        let mut say = |kind: u32, data: &[u8]| out.extend(wire::option_reply(number, kind, data));
        match number {
            option::EXPORT_NAME => {
                // With extended headers it must not be used; this is the only refusal it has.
                if !self.is_named(data) || terms.headers == Headers::Extended {
                    return Next::Leave;
                }
                out.extend(self.size.to_be_bytes());
                out.extend(self.abilities(*terms).to_be_bytes());
                out.resize(out.len() + if zeros { 124 } else { 0 }, 0);
                return Next::Serve;
            }
            option::ABORT => {
                say(reply::ACK, &[]);
                return Next::Leave;
            }
            option::LIST if data.is_empty() => {
                say(reply::SERVER, &prefixed(self.name.as_bytes()));
                say(reply::ACK, &[]);
            }
            option::STRUCTURED_REPLY if data.is_empty() && terms.headers == Headers::Extended => {
                say(reply::ERR_EXT_HEADER_REQD, b"extended headers have been agreed upon");
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                terms.headers = Headers::Structured;
                say(reply::ACK, &[]);
            }
            option::EXTENDED_HEADERS if data.is_empty() => {
                terms.headers = Headers::Extended;
                say(reply::ACK, &[]);
            }
            option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
                say(reply::ERR_INVALID, b"this option has no data")
            }
            option::INFO | option::GO => match Wanted::parse(data) {
                None => say(reply::ERR_INVALID, b"a name and a list of informations are wanted"),
                Some(wanted) if !self.is_named(wanted.name) => say(reply::ERR_UNKNOWN, b"no such export"),
                Some(wanted) => {
                    self.tell(&wanted, *terms, &mut say);
                    say(reply::ACK, &[]);
                    return if number == option::GO { Next::Serve } else { Next::More };
                }
            },
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.contexts(number == option::SET_META_CONTEXT, data, terms, &mut say);
            }
            option::STARTTLS if security == Security::Secured => {
                say(reply::ERR_INVALID, b"TLS is there already")
            }
            option::STARTTLS => say(reply::ERR_POLICY, b"no TLS here"),
            _ => say(reply::ERR_UNSUP, b"not supported"),
        }
        Next::More
    }

    /// All that is known and was asked for; size, abilities and block sizes also unasked.
    fn tell(&self, wanted: &Wanted<'_>, terms: Terms, say: &mut impl FnMut(u32, &[u8])) {
        let mut tell = |kind: u16, data: &[u8]| say(reply::INFO, &[&kind.to_be_bytes(), data].concat());
        tell(info::EXPORT, &[&self.size.to_be_bytes()[..], &self.abilities(terms).to_be_bytes()].concat());
        let sizes = [1, self.preferred, REQUEST_BYTES].map(u32::to_be_bytes);
        tell(info::BLOCK_SIZE, &sizes.concat());
        if wanted.infos.contains(&info::NAME) {
            tell(info::NAME, self.name.as_bytes());
        }
        if wanted.infos.contains(&info::DESCRIPTION) {
            tell(info::DESCRIPTION, self.description.as_bytes());
        }
    }

    /// Answers LIST_META_CONTEXT, or with `set` SET_META_CONTEXT, which forgets what was set before, whatever
    /// comes of it.
    fn contexts(&self, set: bool, data: &[u8], terms: &mut Terms, say: &mut impl FnMut(u32, &[u8])) {
        if set {
            terms.allocation = false;
        }
        let Some(asked) = Contexts::parse(data) else {
            return say(reply::ERR_INVALID, b"a name and a list of queries are wanted");
        };
        if terms.headers == Headers::Simple {
            return say(reply::ERR_INVALID, b"structured replies come first");
        }
        if !self.is_named(asked.name) {
            return say(reply::ERR_UNKNOWN, b"no such export");
        }
        let names_it = |query: &&[u8]| *query == ALLOCATION || (!set && *query == b"base:");
        // To list without a query is to ask for all; to set none is to set none.
        if asked.queries.iter().any(names_it) || (!set && asked.queries.is_empty()) {
            // In a list the number means nothing, and is zero.
            let id = if set { ALLOCATION_ID } else { 0 };
            terms.allocation |= set;
            say(reply::META_CONTEXT, &[&id.to_be_bytes(), ALLOCATION].concat());
        }
        say(reply::ACK, &[]);
    }

    fn is_named(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }

    fn abilities(&self, terms: Terms) -> u16 {
        let mut flags = can::HAS_FLAGS | can::SEND_FLUSH | can::SEND_FUA | can::MULTI_CONN | can::SEND_CACHE;
        flags |= match self.read_only {
            true => can::READ_ONLY,
            false => can::SEND_TRIM | can::SEND_WRITE_ZEROES | can::SEND_FAST_ZERO,
        };
        flags | if terms.headers == Headers::Simple { 0 } else { can::SEND_DF }
    }
}

/// A string behind its length.
fn prefixed(string: &[u8]) -> Vec<u8> {
    [&(string.len() as u32).to_be_bytes(), string].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client that has said everything beforehand.
    struct Said<'a> {
        client: &'a [u8],
        server: Vec<u8>,
    }

    impl Read for Said<'_> {
        fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
            self.client.read(buf)
        }
    }

    impl Write for Said<'_> {
        fn write(&mut self, buf: &[u8]) -> Result<usize> {
            self.server.write(buf)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn export() -> Export {
        Export {
            name: "data".into(),
            description: "raid5".into(),
            size: 1 << 20,
            preferred: 4096,
            read_only: false,
        }
    }

    fn option(number: u32, data: &[u8]) -> Vec<u8> {
        let head = [&wire::OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &prefixed(data)];
        head.concat()
    }

    /// What comes of `flags` and `options`, and what the server says behind its greeting.
    fn talk(flags: u32, options: &[Vec<u8>]) -> (Result<Option<Terms>>, Vec<u8>) {
        let (result, said) = talk_under(Security::Clear, flags, options);
        let result = result.map(|agreed| match agreed {
            Agreed::Serve(terms) => Some(terms),
            Agreed::Secure | Agreed::Leave => None,
        });
        (result, said)
    }

    fn talk_under(security: Security, flags: u32, options: &[Vec<u8>]) -> (Result<Agreed>, Vec<u8>) {
        let client = [&flags.to_be_bytes()[..], &options.concat()].concat();
        let mut said = Said { client: &client, server: Vec::new() };
        let result = greet(&mut said).and_then(|zeros| negotiate(&mut said, &export(), security, zeros));
        (result, said.server.split_off(18))
    }

    fn go(name: &str, infos: &[u16]) -> Vec<u8> {
        let infos: Vec<u8> = [infos.len() as u16].iter().chain(infos).flat_map(|n| n.to_be_bytes()).collect();
        [prefixed(name.as_bytes()), infos].concat()
    }

    fn contexts(queries: &[&str]) -> Vec<u8> {
        let queries: Vec<Vec<u8>> = queries.iter().map(|query| prefixed(query.as_bytes())).collect();
        [prefixed(b"data"), (queries.len() as u32).to_be_bytes().to_vec(), queries.concat()].concat()
    }

    /// Kinds of the replies in `bytes`.
    fn kinds(mut bytes: &[u8]) -> Vec<u32> {
        let mut kinds = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<20>() {
            assert_eq!(head[..8], wire::OPTION_REPLY_MAGIC.to_be_bytes());
            kinds.push(u32::from_be_bytes(head[12..16].try_into().unwrap()));
            bytes = &rest[u32::from_be_bytes(head[16..].try_into().unwrap()) as usize..];
        }
        assert!(bytes.is_empty());
        kinds
    }

    #[test]
    fn a_client_of_today() {
        let options = [
            option(77, &[]),
            option(option::STRUCTURED_REPLY, &[]),
            option(option::SET_META_CONTEXT, &contexts(&["base:allocation", "qemu:dirty-bitmap:x"])),
            option(option::GO, &go("data", &[info::BLOCK_SIZE, info::NAME])),
        ];
        let (terms, said) = talk(3, &options);
        assert_eq!(terms.unwrap(), Some(Terms { headers: Headers::Structured, allocation: true }));
        let (ack, info) = (reply::ACK, reply::INFO);
        let expected = [reply::ERR_UNSUP, ack, reply::META_CONTEXT, ack, info, info, info, ack];
        assert_eq!(kinds(&said), expected);
    }

    #[test]
    fn a_client_of_tomorrow() {
        let options = [
            option(option::EXTENDED_HEADERS, b"?"),
            option(option::EXTENDED_HEADERS, &[]),
            option(option::STRUCTURED_REPLY, &[]),
            option(option::SET_META_CONTEXT, &contexts(&["base:allocation"])),
            option(option::GO, &go("data", &[])),
        ];
        let (terms, said) = talk(3, &options);
        assert_eq!(terms.unwrap(), Some(Terms { headers: Headers::Extended, allocation: true }));
        let (ack, info) = (reply::ACK, reply::INFO);
        let (invalid, extended) = (reply::ERR_INVALID, reply::ERR_EXT_HEADER_REQD);
        assert_eq!(kinds(&said), [invalid, ack, extended, reply::META_CONTEXT, ack, info, info, ack]);
        // Later is early enough, and what was set before stays set.
        let later = [options[2].clone(), options[3].clone(), options[1].clone(), options[4].clone()];
        assert_eq!(talk(3, &later).0.unwrap(), Some(Terms { headers: Headers::Extended, allocation: true }));
        let old = [options[1].clone(), option(option::EXPORT_NAME, b"data")];
        assert_eq!(talk(3, &old).0.unwrap(), None, "the old way in has no extended headers");
    }

    #[test]
    fn the_old_way_in() {
        let (terms, said) = talk(0, &[option(option::EXPORT_NAME, b"")]);
        assert_eq!(terms.unwrap(), Some(Terms::default()));
        assert_eq!(said.len(), 10 + 124);
        assert_eq!(said[..8], (1u64 << 20).to_be_bytes());
        let (_, said) = talk(wire::FLAG_NO_ZEROES, &[option(option::EXPORT_NAME, b"data")]);
        assert_eq!(said.len(), 10);
        let (terms, said) = talk(0, &[option(option::EXPORT_NAME, b"other")]);
        assert_eq!((terms.unwrap(), said), (None, vec![]));
    }

    #[test]
    fn refusals_leave_the_client_a_second_chance() {
        let options = [
            option(option::SET_META_CONTEXT, &contexts(&["base:allocation"])),
            option(option::GO, &go("other", &[])),
            option(option::GO, b"?"),
            option(option::LIST, b"?"),
            option(99, &[7; 1000]),
            option(option::LIST, &[]),
            option(option::ABORT, &[]),
        ];
        let (terms, said) = talk(3, &options);
        assert_eq!(terms.unwrap(), None);
        let (invalid, unknown) = (reply::ERR_INVALID, reply::ERR_UNKNOWN);
        let ack = reply::ACK;
        let expected = [invalid, unknown, invalid, invalid, reply::ERR_UNSUP, reply::SERVER, ack, ack];
        assert_eq!(kinds(&said), expected);
    }

    #[test]
    fn nothing_is_told_before_tls() {
        let options = [
            option(option::LIST, &[]),
            option(option::INFO, &go("data", &[])),
            option(option::STRUCTURED_REPLY, &[]),
            option(option::SET_META_CONTEXT, &contexts(&["base:allocation"])),
            option(99, &[]),
            option(option::STARTTLS, b"?"),
            option(option::STARTTLS, &[]),
            option(option::LIST, &[]),
        ];
        let (agreed, said) = talk_under(Security::Wanted, 3, &options);
        assert_eq!(agreed.unwrap(), Agreed::Secure, "what was sent behind it is not looked at");
        let first = reply::ERR_TLS_REQD;
        assert_eq!(kinds(&said), [first, first, first, first, first, reply::ERR_INVALID, reply::ACK]);
        assert!(!said.windows(8).any(|word| word == prefixed(b"data")), "not even its name");
        let (agreed, said) = talk_under(Security::Wanted, 3, &[option(option::EXPORT_NAME, b"data")]);
        assert_eq!((agreed.unwrap(), said), (Agreed::Leave, vec![]));
        let again = [option(option::STARTTLS, &[]), option(option::ABORT, &[])];
        let (agreed, said) = talk_under(Security::Secured, 3, &again);
        assert_eq!((agreed.unwrap(), kinds(&said)), (Agreed::Leave, vec![reply::ERR_INVALID, reply::ACK]));
        let (_, said) = talk_under(Security::Clear, 3, &again);
        assert_eq!(kinds(&said), [reply::ERR_POLICY, reply::ACK]);
    }

    #[test]
    fn contexts_are_listed_by_beginning_and_set_by_name() {
        let listed = |queries: &[&str]| {
            let list = option(option::LIST_META_CONTEXT, &contexts(queries));
            let (_, said) = talk(3, &[option(option::STRUCTURED_REPLY, &[]), list]);
            kinds(&said).contains(&reply::META_CONTEXT)
        };
        assert!(listed(&[]) && listed(&["base:"]) && listed(&["x:", "base:allocation"]));
        assert!(!listed(&["x:"]) && !listed(&["base:alloc"]));
        let set = |queries: &[&str]| {
            let all = option(option::SET_META_CONTEXT, &contexts(&["base:allocation"]));
            let set = option(option::SET_META_CONTEXT, &contexts(queries));
            let go = option(option::GO, &go("", &[]));
            talk(3, &[option(option::STRUCTURED_REPLY, &[]), all, set, go]).0.unwrap().unwrap().allocation
        };
        assert!(set(&["base:allocation"]));
        assert!(!set(&[]) && !set(&["base:"]), "the second one counts, and wants whole names");
    }

    #[test]
    fn who_is_not_understood_is_left() {
        assert!(talk(4, &[option(option::GO, &go("", &[]))]).0.is_err(), "unknown client flags");
        assert!(talk(3, &[vec![7; 16]]).0.is_err(), "no option");
        assert!(talk(3, &[option(option::GO, &[])[..15].to_vec()]).0.is_err(), "half an option");
        let long = [&wire::OPTION_MAGIC.to_be_bytes()[..], &[0, 0, 0, 3, 255, 255, 255, 255]].concat();
        assert!(talk(3, &[long]).0.is_err(), "a length out of thin air");
        let endless = vec![option(option::LIST, &[]); OPTIONS + 1];
        assert!(talk(3, &endless).0.is_err(), "no end");
    }

    proptest! {
        #[test]
        fn nothing_panics(options in proptest::collection::vec(
            (0u32..14, proptest::collection::vec(any::<u8>(), 0..40)), 0..9,
        )) {
            let options: Vec<Vec<u8>> = options.iter().map(|(number, data)| option(*number, data)).collect();
            let _ = talk(3, &options);
        }
    }
}
