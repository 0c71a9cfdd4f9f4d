//! The text with the tokens that speak for the mark and those that do not: in a terminal, without colour, and as a page.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use crate::terminal::harmless;

/// What the detector made of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Scored, and for the mark.
    Favoured,
    /// Scored, and not for the mark.
    Unfavoured,
    /// The same (context, token) pair was scored before.
    Repeat,
    /// Not scored: fewer than `h` tokens before it, or low or unknown entropy.
    NotScored,
}

impl Colour {
    const ALL: [Self; 4] = [Self::Favoured, Self::Unfavoured, Self::Repeat, Self::NotScored];

    fn class(self) -> &'static str {
        match self {
            Self::Favoured => "favoured",
            Self::Unfavoured => "unfavoured",
            Self::Repeat => "repeat",
            Self::NotScored => "unscored",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Favoured => "for the mark",
            Self::Unfavoured => "not for the mark",
            Self::Repeat => "repeated pair, scored once",
            Self::NotScored => "not scored",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Favoured => AnsiColor::Black.on(AnsiColor::Green),
            Self::Unfavoured => AnsiColor::Black.on(AnsiColor::Red),
            Self::Repeat => Style::new().dimmed().underline(),
            Self::NotScored => Style::new().dimmed(),
        }
    }
}

/// A run of the text with its colour. A character that several tokens share lies in the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) colour: Colour,
    /// Whether it lies in a passage found to carry a mark.
    pub(crate) in_span: bool,
}

/// Writes the pieces to a terminal: coloured, or as `[+for]` and `[-not]` where there is no colour.
pub(crate) fn write_terminal(out: &mut dyn Write, pieces: &[Piece], colour: bool) -> io::Result<()> {
    for piece in pieces {
        let text = harmless(&piece.text);
        match (colour, piece.colour) {
            (true, kind) => {
                let style = kind.style();
                // Each line on its own, so that no background runs to the edge of the window.
                for line in text.split_inclusive('\n') {
                    let body = line.trim_end_matches('\n');
                    write!(out, "{style}{body}{style:#}{}", if body.len() < line.len() { "\n" } else { "" })?;
                }
            }
            (false, Colour::Favoured) => write!(out, "[+{text}]")?,
            (false, Colour::Unfavoured) => write!(out, "[-{text}]")?,
            (false, Colour::Repeat | Colour::NotScored) => write!(out, "{text}")?,
        }
    }
    if pieces.last().is_some_and(|piece| !piece.text.ends_with('\n')) {
        writeln!(out)?;
    }
    Ok(())
}

/// One text on the page: a heading, the verdict's rows, the pieces.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) pieces: Vec<Piece>,
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in harmless(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "\
:root{color-scheme:light dark;--g:#b7ecc3;--r:#f9c6c6;--f:#1b1f24;--b:#fff;--m:#68717b;--l:#d9dee3}\
@media(prefers-color-scheme:dark){:root{--g:#1f5f35;--r:#6b2a2e;--f:#e6e9ec;--b:#14171a;--m:#98a2ac;--l:#343a40}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--f);background:var(--b);max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.5rem;overflow-wrap:anywhere}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:.5rem 0}dt{color:var(--m)}dd{margin:0;overflow-wrap:anywhere}\
pre{font:14px/1.7 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--l);border-radius:6px;padding:1rem}\
.favoured{background:var(--g)}.unfavoured{background:var(--r)}.repeat{color:var(--m);text-decoration:underline dotted}.unscored{color:var(--m)}\
mark{color:inherit;background:none;border-block:3px double var(--f);padding-block:.2rem}\
.favoured,.unfavoured{border-radius:3px;box-shadow:inset 0 0 0 1px var(--b)}\
.legend span{font:14px ui-monospace,monospace;padding:.1rem .4rem;margin-right:.6rem}";

/// A page of its own: no script, nothing loaded from elsewhere.
pub(crate) fn page(title: &str, sections: &[Section]) -> String {
    let mut html = String::new();
    let legend: String = Colour::ALL
        .iter()
        .map(|colour| format!("<span class=\"{}\">{}</span>", colour.class(), colour.meaning()))
        .collect();
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n\
         <p class=\"legend\">{legend}</p>\n",
        title = escaped(title),
    );
    for section in sections {
        let _ = write!(html, "<section><h2>{}</h2>\n<dl>", escaped(&section.heading));
        for (name, value) in &section.facts {
            let _ = write!(html, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
        }
        html.push_str("</dl>\n<pre>");
        // The first line feed after <pre> is dropped by HTML's rules: give it one to drop.
        html.push('\n');
        let mut open = false;
        for piece in &section.pieces {
            if piece.in_span != open {
                html.push_str(if open { "</mark>" } else { "<mark>" });
                open = piece.in_span;
            }
            let _ = write!(html, "<span class=\"{}\">{}</span>", piece.colour.class(), escaped(&piece.text));
        }
        if open {
            html.push_str("</mark>");
        }
        html.push_str("</pre></section>\n");
    }
    html.push_str(
        "<p>A mark that is found says that the text holds a run consistent with the key. It does not say who \
         wrote the text, nor that it is unaltered. A mark that is not found proves nothing.</p>\n</body></html>\n",
    );
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> Vec<Piece> {
        let piece =
            |text: &str, colour| Piece { text: text.into(), colour, in_span: colour == Colour::Unfavoured };
        vec![
            piece("de", Colour::NotScored),
            piece("f <b>\n", Colour::Favoured),
            piece("\u{1b}[31m", Colour::Unfavoured),
            piece("&x", Colour::Repeat),
        ]
    }

    #[test]
    fn without_colour_green_and_red_are_bracketed_and_controls_are_shown() {
        let mut out = Vec::new();
        write_terminal(&mut out, &pieces(), false).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "de[+f <b>\n][-\u{241b}[31m]&x\n");
    }

    #[test]
    fn with_colour_no_escape_comes_from_the_text() {
        let mut out = Vec::new();
        write_terminal(&mut out, &pieces(), true).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(shown.contains("\u{241b}[31m") && shown.contains("\u{1b}[30m\u{1b}[42m"), "{shown:?}");
        assert!(!shown.contains("\u{1b}[31m"), "{shown:?}");
    }

    #[test]
    fn the_page_escapes_what_it_shows() {
        let section = Section {
            heading: "<script>".into(),
            facts: vec![("verdict".into(), "\"detected\"".into())],
            pieces: pieces(),
        };
        let html = page("a < b", &[section]);
        assert!(html.contains("<span class=\"favoured\">f &lt;b&gt;\n</span>"), "{html}");
        assert!(
            html.contains("</span><mark><span class=\"unfavoured\">") && html.contains("</span></mark>"),
            "{html}"
        );
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "{html}");
        assert!(!html.contains('\u{1b}') && html.contains("<title>a &lt; b</title>"), "{html}");
    }
}
