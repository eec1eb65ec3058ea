//! Splits make.conf into words as Portage's lexer does.
//!
//! That lexer is Python's `shlex` in POSIX mode with more word characters, and not a shell. `A=b=c`
//! is an error, `A=` takes the next line's first word, and a backslash outside quotes takes any
//! character after it literally.

use std::path::PathBuf;

/// The next item of the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A word or a lone character.
    Word(String),
    /// `source`, with the word after it. The caller may [`Lexer::push`] the file.
    Source(Option<String>),
    /// The end of the outermost file.
    End,
}

/// A quotation or an escape is unfinished at the end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LexError {
    #[error("a quotation mark is not closed")]
    Quote,
    #[error("there is nothing after the last backslash")]
    Escape,
}

#[derive(Debug, Clone, Copy)]
enum LexerState {
    /// Past the end of a file, until the lexer leaves the file.
    Ended,
    Between,
    Word,
    Quoted(char),
    /// After a backslash, with the quotation mark of a surrounding quotation.
    Escaped(Option<char>),
}

#[derive(Debug)]
struct Stream {
    file: PathBuf,
    text: std::vec::IntoIter<char>,
    line: u32,
    /// The line in which the last word begins.
    begun: u32,
}

/// Whether `source` is a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sourcing {
    Allowed,
    Off,
}

/// Splits a file, and the files that it sources, into words.
#[derive(Debug)]
pub(crate) struct Lexer {
    /// The files that source `current`, the innermost last.
    files: Vec<Stream>,
    current: Stream,
    pushed_back: Option<char>,
    state: LexerState,
    sourcing: Sourcing,
}

impl Lexer {
    /// `text` must have `\n` as line ends.
    pub(crate) fn new(file: PathBuf, text: &str, sourcing: Sourcing) -> Self {
        Self { files: Vec::new(), current: stream(file, text), pushed_back: None, state: LexerState::Between, sourcing }
    }

    /// The file and line in which the last word begins, for messages.
    pub(crate) fn place(&self) -> (&PathBuf, u32) {
        (&self.current.file, self.current.begun)
    }

    /// The number of files above this one that are open.
    pub(crate) fn depth(&self) -> usize {
        self.files.len()
    }

    /// Reads another file before the rest of this one.
    pub(crate) fn push(&mut self, file: PathBuf, text: &str) {
        self.files.push(std::mem::replace(&mut self.current, stream(file, text)));
    }

    pub(crate) fn next(&mut self) -> Result<Token, LexError> {
        loop {
            if let Some(character) = self.pushed_back.take() {
                return Ok(Token::Word(character.into()));
            }
            match self.read()? {
                Some(word) if word == "source" && self.sourcing == Sourcing::Allowed => {
                    return Ok(Token::Source(self.read()?));
                }
                Some(word) => return Ok(Token::Word(word)),
                None => match self.files.pop() {
                    Some(outer) => (self.current, self.state) = (outer, LexerState::Between),
                    None => return Ok(Token::End),
                },
            }
        }
    }

    /// Reads the next word of this file.
    fn read(&mut self) -> Result<Option<String>, LexError> {
        let (mut word, mut quoted) = (String::new(), false);
        loop {
            if matches!(self.state, LexerState::Between) {
                self.current.begun = self.current.line;
            }
            let next = self.character();
            match (self.state, next) {
                (LexerState::Ended, _) => break,
                (LexerState::Between | LexerState::Word, None) => {
                    self.state = LexerState::Ended;
                    break;
                }
                (LexerState::Quoted(_), None) => return Err(LexError::Quote),
                (LexerState::Escaped(_), None) => return Err(LexError::Escape),
                (LexerState::Between | LexerState::Word, Some(character)) => {
                    if self.plain(character, &mut word) {
                        break;
                    }
                }
                (LexerState::Quoted(quote), Some(character)) => {
                    quoted = true;
                    self.state = match character {
                        _ if character == quote => LexerState::Word,
                        '\\' if quote == '"' => LexerState::Escaped(Some(quote)),
                        _ => {
                            word.push(character);
                            self.state
                        }
                    };
                }
                (LexerState::Escaped(quote), Some(character)) => {
                    if quote.is_some_and(|quote| character != quote && character != '\\') {
                        word.push('\\');
                    }
                    word.push(character);
                    self.state = quote.map_or(LexerState::Word, LexerState::Quoted);
                }
            }
        }
        Ok((quoted || !word.is_empty()).then_some(word))
    }

    /// Handles a character outside quotes. Returns whether the word ends here.
    fn plain(&mut self, character: char, word: &mut String) -> bool {
        let within = matches!(self.state, LexerState::Word);
        match character {
            ' ' | '\t' | '\r' | '\n' => self.state = LexerState::Between,
            '#' => {
                self.skip_line();
                self.state = LexerState::Between;
            }
            '\'' | '"' => {
                self.state = LexerState::Quoted(character);
                return false;
            }
            '\\' => {
                self.state = LexerState::Escaped(None);
                return false;
            }
            _ if character.is_ascii_alphanumeric() || "~!@$%*_:;?,./-+{}".contains(character) => {
                word.push(character);
                self.state = LexerState::Word;
                return false;
            }
            _ if within => {
                self.pushed_back = Some(character);
                self.state = LexerState::Between;
            }
            _ => {
                word.push(character);
                return true;
            }
        }
        within
    }

    fn character(&mut self) -> Option<char> {
        let next = self.current.text.next();
        if next == Some('\n') {
            self.current.line = self.current.line.saturating_add(1);
        }
        next
    }

    fn skip_line(&mut self) {
        while self.character().is_some_and(|character| character != '\n') {}
    }
}

fn stream(file: PathBuf, text: &str) -> Stream {
    Stream { file, text: text.chars().collect::<Vec<_>>().into_iter(), line: 1, begun: 1 }
}
