//! Templates and what Go gives for them.
#![allow(clippy::unwrap_used, reason = "tests")]

use sampan_template::{Template, Value};

const DATA: &str = r#"{
  "Id": "0123456789abcdef", "Name": "/web", "Tty": false, "Pid": 42, "Big": 9007199254740993, "Load": 0.5,
  "Args": ["-c", "echo hi"], "None": null, "Env": null, "Empty": [],
  "State": {"Running": true, "Status": "running", "Error": ""},
  "Labels": {"b.c": "2", "a": "1"},
  "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": null}
}"#;

fn render(template: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(DATA).unwrap();
    let value = value.with_maps(&["Labels", "Ports"], &["Env"]);
    Template::parse(template).and_then(|t| t.render(&value)).map_err(|e| e.to_string())
}

#[test]
fn what_go_gives() {
    for (template, expected) in [
        ("plain", "plain"),
        ("{{.Id}}", "0123456789abcdef"),
        ("{{.ID}}", "0123456789abcdef"),
        ("{{ .State.Status }}!", "running!"),
        ("{{.Pid}} {{.Big}} {{.Load}} {{.Tty}}", "42 9007199254740993 0.5 false"),
        ("{{.None}} {{.Env}} {{json .Env}} {{len .Env}} {{eq .None nil}}", "<nil> [] null 0 true"),
        ("{{.Args}}", "[-c echo hi]"),
        ("{{.Labels}}", "map[a:1 b.c:2]"),
        ("{{.State}}", "{true running }"),
        ("{{.Labels.a}} {{.Labels.zzz}}", "1 <no value>"),
        ("{{index .Labels \"b.c\"}}{{index .Labels \"none\"}}", "2"),
        ("{{index .Args 1}}", "echo hi"),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        (
            "{{json .Args}} {{json .None}} {{.State | json}}",
            r#"["-c","echo hi"] null {"Running":true,"Status":"running","Error":""}"#,
        ),
        ("{{range .Args}}<{{.}}>{{end}}", "<-c><echo hi>"),
        ("{{range $i, $a := .Args}}{{$i}}={{$a}} {{end}}", "0=-c 1=echo hi "),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=1;b.c=2;"),
        (
            "{{range $p, $b := .Ports}}{{$p}}{{if $b}}>{{(index $b 0).HostPort}}{{end}} {{end}}",
            "80/tcp>8080 81/tcp ",
        ),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Args}}{{if eq . \"echo hi\"}}{{break}}{{end}}{{.}}{{end}}", "-c"),
        ("{{range .Args}}{{if eq . \"-c\"}}{{continue}}{{end}}{{.}}{{end}}", "echo hi"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .State.Error}}bad{{else if .Tty}}tty{{else}}good{{end}}", "good"),
        ("{{with .State}}{{.Status}} {{$.Pid}}{{end}}{{with .None}}x{{else}}y{{end}}", "running 42y"),
        ("{{$x := .Pid}}{{$x}}{{$x = 3}}{{$x}}", "423"),
        ("{{if and .State.Running (not .Tty)}}yes{{end}}", "yes"),
        ("{{or .State.Error \"none\"}} {{and .Pid 0}}", "none 0"),
        (
            "{{eq .Pid 1 42}} {{ne .Name \"x\"}} {{lt 1 2}} {{ge 2 3}} {{gt .Load 0.1}}",
            "true true true false true",
        ),
        ("{{len .Args}} {{len .Labels}} {{len .Name}}", "2 2 4"),
        ("{{slice .Id 0 4}} {{slice .Name 1}}", "0123 web"),
        ("{{join .Args \"|\"}} {{split .Id \"a\"}}", "-c|echo hi [0123456789 bcdef]"),
        ("{{upper .State.Status}} {{lower \"ABC\"}} {{title \"a web app\"}}", "RUNNING abc A Web App"),
        ("{{truncate .Id 3}}[{{pad \"x\" 1 2}}]", "012[ x  ]"),
        ("{{printf \"%s-%d-%q-%v\" .Name .Pid .Name .Args}}", "/web-42-\"/web\"-[-c echo hi]"),
        (
            "{{printf \"[%-6s|%6s|%03d|%.2f|%x|%t|%%]\" \"a\" \"b\" 7 .Load 255 .Tty}}",
            "[a     |     b|007|0.50|ff|false|%]",
        ),
        ("{{println .Pid .Name}}", "42 /web\n"),
        ("{{print 1 2 \"a\" 3}}", "1 2a3"),
        ("{{.Name | printf \"%s %s\" .Id | upper}}", "0123456789ABCDEF /WEB"),
        ("a {{- .Pid -}} b", "a42b"),
        ("a{{/* no */}}b {{- /* no */ -}} c", "abc"),
        ("{{\"a\\tb\\u00e9\"}}{{`raw\\n`}}", "a\tbéraw\\n"),
        ("{{html \"<a>\"}} {{urlquery \"a b&\"}}", "&lt;a&gt; a+b%26"),
        ("{{range $i := 3}}{{$i}}{{end}}", "012"),
        ("{{'a'}} {{0x10}} {{-3}} {{1.5}}", "97 16 -3 1.5"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_go_refuses() {
    for (template, said) in [
        ("{{.Id", "unclosed action"),
        ("{{", "unclosed action"),
        ("{{}}", "missing value"),
        ("{{if .Id}}x", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{nofunc .Id}}", "function \"nofunc\" not defined"),
        ("{{.Missing}}", "map has no entry for key \"Missing\""),
        ("{{.State.Missing.More}}", "map has no entry"),
        ("{{.Id.More}}", "can't evaluate field More"),
        ("{{index .Args 9}}", "out of range"),
        ("{{\"open}}", "unterminated"),
        ("{{(.Id}}", "unclosed left paren"),
        ("{{.Id)}}", "unexpected right paren"),
        ("{{break}}", "outside"),
        ("{{define \"x\"}}{{end}}", "not supported"),
        ("{{.Id .Name}}", "non-function"),
        ("{{eq .Pid .Name}}", "incompatible"),
        ("{{range .Pid}}{{$nope}}{{end}}", "undefined variable"),
        ("\n\n{{.Missing}}", ":3:"),
        ("{{1 | 2}}", "non executable"),
        ("{{range .Name}}{{end}}", "can't iterate"),
    ] {
        let error = render(template).unwrap_err();
        assert!(error.contains(said), "{template}: {error}");
    }
}

#[test]
fn depth_and_length_have_limits() {
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(render(&deep).unwrap_err().contains("too deep"));
    let blocks = "{{if 1}}".repeat(5000);
    assert!(render(&blocks).unwrap_err().contains("too deep"));
    let long = "{{range $a := 1000000}}{{range $b := 1000000}}0123456789abcdef{{end}}{{end}}";
    assert!(render(long).unwrap_err().contains("too long"));
}

#[test]
fn methods_answer_for_a_key() {
    let label = Value::method(|key| if key == "a.b" { "1".to_owned() } else { String::new() });
    let value = Value::record([("ID", Value::from("x")), ("Label", label)]);
    let show = |t: &str| Template::parse(t).and_then(|t| t.render(&value)).map_err(|e| e.to_string());
    assert_eq!(show("{{.Label \"a.b\"}}{{.Label \"none\"}}").unwrap(), "1");
    assert_eq!(show("{{json .}}").unwrap(), r#"{"ID":"x"}"#);
    let heading = Template::parse("{{upper .ID}} {{truncate .ID 0}}").unwrap();
    assert_eq!(heading.render_heading(&value).unwrap(), "x x");
    assert!(show("{{.Label}}").is_err());
    assert!(Template::parse("{{if 1}}{{.Size}}{{end}}").unwrap().names("Size"));
    assert!(!Template::parse("{{.Id}} Size").unwrap().names("Size"));
}
