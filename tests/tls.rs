//! NBD under TLS: with the clients people use, and with those who should learn nothing.
#![cfg(feature = "cli")]

#[path = "common/bench.rs"]
mod bench;
#[path = "common/export.rs"]
mod export;
#[path = "common/pattern.rs"]
mod pattern;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use export::Export;
use pattern::pattern;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use uraid::serve::nbd::wire::{self, option, reply};

const MEBIBYTE: usize = 1 << 20;

/// A folder with an LU, and folders of certificates: `server` (which asks clients for theirs), `open` (which does
/// not), `client`, `revoked`, whose certificate is not valid any more, and `stranger`, whose somebody else has signed.
struct Bench(bench::Bench);

impl Deref for Bench {
    type Target = bench::Bench;

    fn deref(&self) -> &bench::Bench {
        &self.0
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The serial number of a folder's certificate.
fn serial(folder: &str) -> u64 {
    folder.bytes().map(u64::from).sum()
}

/// A list of certificates that are not valid any more.
fn revoked(serials: &[u64], signer: &Authority) -> String {
    let since = date_time_ymd(2020, 1, 1);
    let revoked = serials.iter().map(|&serial| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: since,
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: since,
        next_update: date_time_ymd(2120, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(signer).unwrap().pem().unwrap()
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench(bench::Bench::empty());
        bench.ok("create data --level 5 ./d0 ./d1 ./d2 --disk-size 32M");
        let (ours, theirs) = (authority(), authority());
        bench.certify("server", "server", &ours, Some(&ours));
        bench.certify("open", "server", &ours, None);
        bench.certify("client", "client", &ours, Some(&ours));
        bench.certify("revoked", "client", &ours, Some(&ours));
        fs::write(bench.path("server/ca-crl.pem"), revoked(&[serial("revoked")], &ours)).unwrap();
        bench.certify("stranger", "client", &theirs, Some(&ours));
        bench
    }

    /// A folder with a certificate and its key, for a `who`, signed by `signer`; and that of the one to believe.
    fn certify(&self, folder_name: &str, who: &str, signer: &Authority, believes: Option<&Authority>) {
        let folder = self.path(folder_name);
        fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial(folder_name)));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, signer).unwrap();
        fs::write(folder.join(format!("{who}-cert.pem")), certificate.pem()).unwrap();
        let file = folder.join(format!("{who}-key.pem"));
        fs::write(&file, key.serialize_pem()).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        if let Some(authority) = believes {
            fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
        }
    }

    fn export(&self, line: &str) -> Export {
        Export::start(self.command(&format!("export ./d0 {line}")))
    }

    fn run_client(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.arg("60").arg(program).args(arguments).current_dir(self.path("")).output().unwrap()
    }

    /// Runs a client program, which has to succeed; its standard output.
    #[track_caller]
    fn client(&self, program: &str, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run_client(program, arguments);
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{program} {arguments:?}: {status}\n{out}{err}");
        out.into_owned()
    }

    /// The URI of a server, for a client with the certificates of `folder`.
    fn uri(&self, export: &Export, folder: &str) -> String {
        let mark = if export.place.contains('?') { '&' } else { '?' };
        format!("{}{mark}tls-certificates={}", export.place, self.path(folder).display())
    }
}

/// Where a `nbds://` URI leads.
fn address(uri: &str) -> &str {
    uri.strip_prefix("nbds://").unwrap().split('/').next().unwrap()
}

#[test]
fn libnbd_and_qemu_under_tls() {
    let bench = Bench::new();
    fs::write(bench.path("source"), pattern(20 * MEBIBYTE, 1)).unwrap();
    for listen in ["tcp:127.0.0.1:0", "unix:s"] {
        let export = bench.export(&format!("--nbd {listen} --tls server"));
        assert!(export.place.starts_with("nbds"), "{}", export.place);
        let uri = bench.uri(&export, "client");
        let told = bench.client("nbdinfo", &[&uri]);
        assert!(told.contains("TLS") && told.contains("export-size"), "{told}");
        bench.client("nbdcopy", &["--connections=4", "source", &uri]);
        bench.client("nbdcopy", &["--connections=4", "--requests=64", &uri, "back"]);
        let back = fs::read(bench.path("back")).unwrap();
        assert!(back[..20 * MEBIBYTE] == fs::read(bench.path("source")).unwrap(), "{listen}");
        assert_eq!(export.signal("TERM"), (Some(0), String::new()));
    }
    let export = bench.export("--nbd tcp:127.0.0.1:0 --tls server");
    let port = address(&export.place).rsplit(':').next().unwrap();
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={}", bench.path("client").display());
    let image = format!("driver=nbd,host=127.0.0.1,port={port},export=data,tls-creds=tls");
    let words = ["--object", &credentials, "--image-opts", &image];
    bench.client("qemu-img", &[&["info"][..], &words].concat());
    let commands = ["-c", "write -P 7 5k 300k", "-c", "flush", "-c", "read -P 7 5k 300k"];
    let told = bench.client("qemu-io", &[&commands[..], &words].concat());
    assert!(told.contains("read 307200/307200"), "{told}");
    assert_eq!(export.signal("TERM").0, Some(0));
}

#[test]
fn only_who_shows_a_certificate_that_is_believed() {
    let bench = Bench::new();
    let asks = bench.export("--nbd tcp:127.0.0.1:0 --tls server");
    bench.client("nbdinfo", &["--size", &bench.uri(&asks, "client")]);
    // Certificates of another authority, and none at all.
    fs::create_dir(bench.path("nothing")).unwrap();
    fs::copy(bench.path("client/ca-cert.pem"), bench.path("nothing/ca-cert.pem")).unwrap();
    for folder in ["stranger", "revoked", "nothing"] {
        let refused = bench.run_client("nbdinfo", &["--size", &bench.uri(&asks, folder)]);
        assert!(!refused.status.success(), "{folder}");
    }
    assert_eq!(asks.signal("TERM").0, Some(0));
    let open = bench.export("--nbd tcp:127.0.0.1:0 --tls open");
    bench.client("nbdinfo", &["--size", &bench.uri(&open, "nothing")]);
    // A client does not believe a server that its authority has not signed for.
    fs::copy(bench.path("stranger/client-cert.pem"), bench.path("nothing/ca-cert.pem")).unwrap();
    assert!(!bench.run_client("nbdinfo", &["--size", &bench.uri(&open, "nothing")]).status.success());
    assert_eq!(open.signal("TERM").0, Some(0));
}

#[test]
fn a_plain_client_is_told_why_and_learns_nothing() {
    let bench = Bench::new();
    let export = bench.export("--nbd tcp:127.0.0.1:0 --tls server");
    let plain = export.place.replace("nbds://", "nbd://");
    assert!(!bench.run_client("nbdinfo", &[&plain]).status.success());
    let listed = bench.run_client("nbdinfo", &["--list", &plain]);
    let told = [listed.stdout, listed.stderr].concat();
    assert!(!listed.status.success() && !told.windows(6).any(|word| word == b"raid5 "));
    let refused = bench.run_client("qemu-img", &["info", &plain]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("TLS"), "{told}");
    assert_eq!(export.signal("TERM").0, Some(0));
}

/// Says `bytes` behind a greeting that is understood; what comes of it.
fn say(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn asked(number: u32) -> Vec<u8> {
    [&wire::OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &0u32.to_be_bytes()].concat()
}

#[test]
fn nonsense_under_tls_hurts_nobody_else() {
    let bench = Bench::new();
    let export = bench.export("--nbd tcp:127.0.0.1:0 --tls server");
    let at = address(&export.place);
    let good = bench.uri(&export, "client");
    // What was said in the clear behind STARTTLS is not what was said under TLS.
    let injected = [asked(option::STARTTLS), asked(option::LIST)].concat();
    let mut stream = say(at, &injected);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    assert_eq!(heard[12..16], reply::ACK.to_be_bytes());
    assert!(!heard.windows(4).any(|word| word == b"data"), "{heard:?}");
    let mut state = 1u64;
    for length in 0..200usize {
        let mut noise = asked(option::STARTTLS);
        noise.extend((0..length * 7).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }));
        // Some of them look like the beginning of a record.
        if length % 3 == 0 {
            noise.splice(16..16, [22, 3, 1, 0, 200]);
        }
        drop(say(at, &noise));
        if length % 50 == 0 {
            let start = Instant::now();
            bench.client("nbdinfo", &["--size", &good]);
            assert!(start.elapsed() < Duration::from_secs(5), "a good client waits");
        }
    }
    // Those who stay and say nothing more, or half of a first word, are closed in time; the good one is not kept
    // waiting for that.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 100]].concat();
    let half = |n: usize| [asked(option::STARTTLS), hello[..n * 5].to_vec()].concat();
    let (since, silent) = (Instant::now(), (0..20).map(|n| say(at, &half(n))).collect::<Vec<TcpStream>>());
    bench.client("nbdinfo", &["--size", &good]);
    for mut stream in silent {
        // The end, after the answer to STARTTLS and perhaps an alert.
        assert!(stream.read_to_end(&mut Vec::new()).unwrap() <= 20 + 7);
    }
    let waited = since.elapsed().as_secs();
    assert!((9..20).contains(&waited), "silent clients stayed for {waited} s");
    assert_eq!(export.signal("TERM").0, Some(0));
}

#[test]
fn folders_of_certificates_that_will_not_do() {
    let bench = Bench::new();
    let refused = |code: i32, words: &[&str]| {
        bench.ends_untouched(code, "export ./d0 --nbd unix:s --tls bad", words);
    };
    refused(3, &["bad/server-cert.pem"]);
    fs::create_dir(bench.path("bad")).unwrap();
    let put = |from: &str, to: &str| {
        fs::copy(bench.path(from), bench.path(&format!("bad/{to}"))).unwrap();
    };
    put("server/server-cert.pem", "server-cert.pem");
    refused(3, &["bad/server-key.pem"]);
    put("client/client-key.pem", "server-key.pem");
    refused(2, &["server-cert.pem"]);
    fs::set_permissions(bench.path("bad/server-key.pem"), Permissions::from_mode(0o644)).unwrap();
    refused(2, &["server-key.pem", "chmod"]);
    fs::write(bench.path("bad/server-cert.pem"), "nothing").unwrap();
    refused(2, &["no certificate"]);
    bench.ends_untouched(2, "export ./d0 --nbd unix:s --tls server --insecure", &["--insecure"]);
    bench.ends_untouched(6, "export ./d0 --nbd tcp:0.0.0.0:0", &["--tls DIR"]);
    // With it, other machines may come; that nobody is asked for a certificate is said.
    assert_eq!(bench.export("--nbd tcp:0.0.0.0:0 --tls server").signal("TERM"), (Some(0), String::new()));
    let told = bench.export("--nbd tcp:0.0.0.0:0 --tls open").signal("TERM").1;
    assert!(told.contains("open has no ca-cert.pem"), "{told}");
    put("server/ca-crl.pem", "ca-crl.pem");
    put("server/server-cert.pem", "server-cert.pem");
    put("server/server-key.pem", "server-key.pem");
    refused(2, &["ca-crl.pem", "no ca-cert.pem"]);
}

#[test]
fn the_daemon_needs_its_certificates_and_who_only_looks_does_not() {
    let bench = Bench::new();
    let config = "[[lu]]\nname = 'mine'\ndisks = ['d0', 'd1', 'd2']\nnbd = 'unix:s'\ntls = 'server'\n";
    fs::write(bench.path("uraid.toml"), config).unwrap();
    bench.ok("config check uraid.toml");
    let daemon = Export::start(bench.command("daemon --config uraid.toml"));
    bench.client("nbdinfo", &["--size", &bench.uri(&daemon, "client")]);
    assert!(!bench.run_client("nbdinfo", &[&bench.uri(&daemon, "stranger")]).status.success());
    assert_eq!(daemon.signal("TERM").0, Some(0));
    // As for somebody who may not read it.
    fs::remove_file(bench.path("server/server-key.pem")).unwrap();
    let told = bench.ends(2, "config check uraid.toml").words();
    assert!(told.contains("uraid.toml:5: ") && told.contains("server-key.pem"), "{told}");
    bench.ends_untouched(3, "daemon --config uraid.toml", &["server-key.pem"]);
    bench.ok("status mine");
}
