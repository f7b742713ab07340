use super::*;
use crate::job::Kind;

const KEY_TEXT: &str = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";

fn parse(text: &str) -> Result<Config, Problem> {
    Config::parse(Path::new("agent.toml"), text)
}

fn with(text: &str) -> String {
    format!(
        "[node]\nid = \"gw-1\"\n[[hub]]\ntriggers = \"tcp://h:4510\"\nresults = \"tcp://h:4511\"\n\
         server_keys = [\"{KEY_TEXT}\"]\n{text}"
    )
}

fn said(text: &str) -> String {
    parse(text).expect_err("it should be refused").to_string()
}

#[test]
fn the_shipped_example_parses() {
    let text = include_str!("../../examples/agent.toml");
    let config = Config::parse(Path::new("examples/agent.toml"), text).unwrap();
    assert_eq!(config.agent.jobs.len(), 4);
    assert_eq!(config.hubs.len(), 1);
    assert!(config.spool.is_some());
}

#[test]
fn the_packages_configuration_parses() {
    let text = include_str!("../../packaging/agent/agent.toml");
    // This machine may have no id.
    let text = text.replace("\"machine-id\"", "\"gw-1\"");
    let config = Config::parse(Path::new("packaging/agent/agent.toml"), &text).unwrap();
    assert_eq!(config.agent.jobs.len(), 2);
    assert!(config.spool.is_some());
}

#[test]
fn a_proxy_has_a_scheme_a_host_and_a_port() {
    let with_proxy = |proxy: &str| parse(&with(&format!("proxy = \"{proxy}\"\n")));
    let config = with_proxy("socks5://10.0.0.1:1080").unwrap();
    assert_eq!(config.hubs[0].proxy.as_deref(), Some("10.0.0.1:1080"));
    for bad in ["10.0.0.1:1080", "socks5://:1080", "socks5://host", "http://host:1080", ""] {
        let said = with_proxy(bad).unwrap_err().to_string();
        assert!(said.contains("socks5://"), "{said}");
    }
}

#[test]
fn little_is_needed() {
    let config = parse(&with("")).unwrap();
    assert_eq!(&*config.agent.node, "gw-1");
    assert_eq!(config.key_file, Path::new("/var/lib/fieldpost/agent.key"));
    assert_eq!(config.runtime_dir, Path::new("/run/fieldpost-agent"));
    assert_eq!(config.agent.outbox_bytes, 1 << 20);
    assert_eq!(config.agent.concurrency, 4);
    assert!(config.needs_restart(&config).is_empty());
}

#[test]
fn a_job_becomes_what_it_says() {
    let config = parse(&with(
        "[[job]]\nname = \"a\"\ncommand = [\"/bin/x\", \"--bus\", \"{bus}\"]\nenv = { A = \"1\" }\n\
         args.bus = { pattern = \"[0-3]\", default = \"0\" }\ntimeout = \"20s\"\noverlap = \"skip\"\n\
         memory = \"32 MiB\"\n\
         [[job]]\nname = \"b\"\nbuiltin = \"file\"\npath = \"/x\"\n",
    ))
    .unwrap();
    let [a, b] = config.agent.jobs.as_slice() else { panic!("two jobs") };
    let args = a.check([("bus", "3")].into_iter()).unwrap();
    let Kind::Command(program) = &a.kind else { panic!("a program") };
    assert_eq!(program.argv[2].fill(&args), "3");
    assert_eq!(program.env, [("A".to_owned(), "1".to_owned())]);
    assert_eq!(a.timeout, Duration::from_secs(20));
    assert_eq!(program.memory, Some(32 << 20));
    assert!(matches!(&b.kind, Kind::File { path } if path == Path::new("/x")));
}

#[test]
fn what_is_wrong_is_said_with_file_line_key_value_and_what_was_expected() {
    let problem = said(&with("[[job]]\nname = \"a\"\nbuiltin = \"sytem\"\n"));
    assert_eq!(
        problem,
        "agent.toml:9: [[job]] builtin = \"sytem\": expected \"system\" or \"file\" or \"ping\"\n  \
         hint: did you mean \"system\"?"
    );
    let problem = said(&with("[[job]]\nname = \"a\"\nbuiltin = \"ping\"\ntimout = \"1s\"\n"));
    assert!(problem.starts_with("agent.toml:10: unknown key \"timout\" in [[job]]"), "{problem}");
    assert!(problem.contains("did you mean \"timeout\"?"), "{problem}");
}

#[test]
fn what_can_not_work_is_refused() {
    let job = |text: &str| with(&format!("[[job]]\nname = \"a\"\n{text}"));
    for (text, expected) in [
        ("".to_owned(), "node.id is missing"),
        ("[node]\nid = \"GW\"\n".to_owned(), "contains 'G'"),
        ("[node]\nid = \"gw\"\n".to_owned(), "no [[hub]]"),
        (with("[limits]\nrunning = 17"), "a whole number from 1 to 16"),
        (with("[outbox]\nmemory = \"64 KiB\"\n[limits]\nrunning = 2"), "at most 1"),
        (with("[outbox]\nmemory = \"1 KiB\""), "a size from \"64 KiB\""),
        (
            with("[outbox]\nspool = { path = \"/x\", durability = \"alway\" }"),
            "did you mean \"always\"",
        ),
        (job(""), "expected command"),
        (job("command = []"), "absolute path"),
        (job("command = [\"x\"]"), "no shell looks it up"),
        (job("command = [\"/x\", \"{bus}\"]"), "names {bus}"),
        (job("command = [\"/x\"]\nbuiltin = \"ping\""), "not both"),
        (
            job("command = [\"/x\"]\nenv = { FIELDPOST_JOB = \"a\" }"),
            "does not start with FIELDPOST_",
        ),
        (job("command = [\"/x\"]\nargs.a = { pattern = \"[\" }"), "a regular expression"),
        (
            job("command = [\"/x\"]\nargs.a = { pattern = \"[0-3]\", default = \"4\" }"),
            "does not match",
        ),
        (job("command = [\"/x\"]\nmemory = \"4 KiB\""), "a size of at least \"1 MiB\""),
        (job("builtin = \"ping\"\nmemory = \"4 MiB\""), "unknown key \"memory\""),
        (job("builtin = \"file\""), "path is missing"),
        (job("builtin = \"file\"\npath = \"x\""), "an absolute path"),
        (job("builtin = \"ping\"\ntimeout = \"0s\""), "a duration from \"1s\""),
        (
            job("builtin = \"ping\"\n[[job]]\nname = \"a\"\nbuiltin = \"ping\""),
            "a second job named \"a\"",
        ),
        ("[node]\nid = \"a\"\ntime_zone = \"Mars/Base\"".to_owned(), "a time zone such as"),
        (with("[[hub]]\ntriggers = \"http://x\""), "it must start with tcp://"),
        (with("[[hub]]\ntriggers = \"tcp://x\""), "a port is missing"),
    ] {
        let problem = said(&text);
        assert!(problem.contains(expected), "{text}\n{problem}");
    }
}

#[test]
fn a_changed_hub_needs_a_restart_and_a_changed_job_does_not() {
    let old = parse(&with("")).unwrap();
    let new = parse(&with("[[job]]\nname = \"a\"\nbuiltin = \"ping\"\n")).unwrap();
    assert!(old.needs_restart(&new).is_empty());
    let new = parse(&with("").replace("4510", "4610")).unwrap();
    assert_eq!(old.needs_restart(&new), ["[[hub]]"]);
}
