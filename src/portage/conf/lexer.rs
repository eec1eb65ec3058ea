//! Words of make.conf, as Portage's lexer has them.
//!
//! That is Python's `shlex` in POSIX mode with more word characters, and not a shell: `A=b=c` is an error, `A=` takes the next
//! line's first word, a backslash outside quotes takes the character after it, whatever that is.

use std::path::PathBuf;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A word or a lone character.
    Word(String),
    /// `source`, and the word after it. Whoever gets it may [`Lexer::push`] the file.
    Source(Option<String>),
    /// There is no more.
    End,
}

/// A quote or an escape at the end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LexError {
    #[error("a quotation mark is not closed")]
    Quote,
    #[error("there is nothing after the last backslash")]
    Escape,
}

#[derive(Debug, Clone, Copy)]
enum LexerState {
    /// Past the end of a file. Stays until the file is left.
    Ended,
    Between,
    Word,
    Quoted(char),
    /// After a backslash; within double quotes or not.
    Escaped(Option<char>),
}

#[derive(Debug)]
struct Stream {
    file: PathBuf,
    text: std::vec::IntoIter<char>,
    line: u32,
    /// Where the last word begins.
    begun: u32,
}

/// Whether `source` is a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sourcing {
    Allowed,
    Off,
}

/// Splits a file, and those that it sources, into words.
#[derive(Debug)]
pub(crate) struct Lexer {
    /// The innermost last.
    files: Vec<Stream>,
    current: Stream,
    pushed_back: Option<char>,
    state: LexerState,
    sourcing: Sourcing,
}

impl Lexer {
    /// `text` has `\n` for line ends.
    pub(crate) fn new(file: PathBuf, text: &str, sourcing: Sourcing) -> Self {
        Self { files: Vec::new(), current: stream(file, text), pushed_back: None, state: LexerState::Between, sourcing }
    }

    /// Where the last word begins, for messages.
    pub(crate) fn place(&self) -> (&PathBuf, u32) {
        (&self.current.file, self.current.begun)
    }

    /// How many files are open above this one.
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

    /// The next word of this file.
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

    /// A character outside quotes. Whether the word ends here.
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
