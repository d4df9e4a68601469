package lockstep.logdaemon;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.StandardCharsets;

/**
 * Checks that a line is one JSON object (RFC 8259) in well-formed UTF-8, without building it: an event passes through
 * byte for byte. One bad line makes BigQuery refuse the whole file, so this is as strict as what comes after it: lone
 * surrogates (RFC 7493, section 2.1) are refused too.
 */
final class Json {
    /** Far deeper than BigQuery takes (15), and far from the end of the stack. */
    private static final int MAX_DEPTH = 200;

    /** A line that is not an event; the message says why, and at which byte. */
    static final class Malformed extends Exception {
        private static final long serialVersionUID = 1;

        Malformed(String reason) {
            super(reason, null, false, false);
        }
    }

    private final CharsetDecoder utf8 = StandardCharsets.UTF_8.newDecoder();
    private final CharBuffer decoded = CharBuffer.allocate(8192);
    private final String reserved;
    private byte[] bytes;
    private int start;
    private int end;
    private int at;
    private boolean empty;

    /** @param reserved the key that an event must not have at its top */
    Json(String reserved) {
        this.reserved = reserved;
    }

    /** The index of the brace that closes the object in {@code bytes[from, to)}. */
    int closingBrace(byte[] bytes, int from, int to) throws Malformed {
        this.bytes = bytes;
        start = from;
        end = to;
        requireUtf8();
        at = from;
        space();
        if (peek() != '{') {
            throw malformed("not a JSON object");
        }
        object(1);
        int brace = at - 1;
        space();
        if (at < end) {
            throw malformed("text after the object");
        }
        return brace;
    }

    /** Whether the object checked last has no member. */
    boolean isEmpty() {
        return empty;
    }

    private void requireUtf8() throws Malformed {
        ByteBuffer in = ByteBuffer.wrap(bytes, start, end - start);
        utf8.reset();
        while (true) {
            var result = utf8.decode(in, decoded.clear(), true);
            if (result.isError()) {
                at = in.position();
                throw malformed("not UTF-8");
            }
            if (result.isUnderflow()) {
                return;
            }
        }
    }

    private void value(int depth) throws Malformed {
        switch (peek()) {
            case '{' -> object(depth + 1);
            case '[' -> array(depth + 1);
            case '"' -> string();
            case 't' -> word("true");
            case 'f' -> word("false");
            case 'n' -> word("null");
            default -> number();
        }
    }

    private void object(int depth) throws Malformed {
        enter(depth);
        boolean none = peek() == '}';
        if (none) {
            at++;
        } else {
            do {
                space();
                if (peek() != '"') {
                    throw malformed("expected a key");
                }
                if (string() && depth == 1) {
                    throw malformed("the key \"" + reserved + "\" is reserved");
                }
                space();
                expect(':');
                space();
                value(depth);
                space();
            } while (another('}'));
        }
        if (depth == 1) {
            empty = none;
        }
    }

    private void array(int depth) throws Malformed {
        enter(depth);
        if (peek() == ']') {
            at++;
            return;
        }
        do {
            space();
            value(depth);
            space();
        } while (another(']'));
    }

    private void enter(int depth) throws Malformed {
        if (depth > MAX_DEPTH) {
            throw malformed("nested deeper than " + MAX_DEPTH);
        }
        at++;
        space();
    }

    private boolean another(char close) throws Malformed {
        int c = peek();
        if (c != ',' && c != close) {
            throw malformed("expected ',' or '" + close + "'");
        }
        at++;
        return c == ',';
    }

    /** Reads a string; whether it spells the reserved key, escapes or not. */
    private boolean string() throws Malformed {
        at++;
        int length = 0;
        int same = 0;
        while (true) {
            int c = peek();
            at++;
            if (c == '"') {
                return same == length && length == reserved.length();
            }
            if (c == -1) {
                throw malformed("a string without its end");
            }
            if (c < ' ') {
                throw malformed("a control character in a string");
            }
            int unit = c == '\\' ? escape() : c;
            if (length < reserved.length() && reserved.charAt(length) == unit) {
                same++;
            }
            length++;
        }
    }

    private int escape() throws Malformed {
        int c = peek();
        at++;
        return switch (c) {
            case '"', '\\', '/' -> c;
            case 'b' -> '\b';
            case 'f' -> '\f';
            case 'n' -> '\n';
            case 'r' -> '\r';
            case 't' -> '\t';
            case 'u' -> codePoint();
            default -> throw malformed("an unknown escape");
        };
    }

    private int codePoint() throws Malformed {
        char unit = fourDigits();
        if (!Character.isSurrogate(unit)) {
            return unit;
        }
        if (Character.isHighSurrogate(unit) && peek() == '\\') {
            at++;
            if (peek() == 'u') {
                at++;
                char low = fourDigits();
                if (Character.isLowSurrogate(low)) {
                    return Character.toCodePoint(unit, low);
                }
            }
        }
        throw malformed("half of a surrogate pair");
    }

    private char fourDigits() throws Malformed {
        int unit = 0;
        for (int i = 0; i < 4; i++, at++) {
            // Character.digit also knows the digits of other scripts, which JSON does not.
            int digit = peek() < 0x80 ? Character.digit(peek(), 16) : -1;
            if (digit < 0) {
                throw malformed("expected four hexadecimal digits");
            }
            unit = unit * 16 + digit;
        }
        return (char) unit;
    }

    private void number() throws Malformed {
        if (peek() == '-') {
            at++;
        }
        if (peek() == '0') {
            at++;
        } else {
            digits("expected a value");
        }
        if (peek() == '.') {
            at++;
            digits("expected digits");
        }
        if (peek() == 'e' || peek() == 'E') {
            at++;
            if (peek() == '+' || peek() == '-') {
                at++;
            }
            digits("expected digits");
        }
    }

    private void digits(String otherwise) throws Malformed {
        int first = at;
        while (peek() >= '0' && peek() <= '9') {
            at++;
        }
        if (at == first) {
            throw malformed(otherwise);
        }
    }

    private void word(String word) throws Malformed {
        for (int i = 0; i < word.length(); i++) {
            expect(word.charAt(i));
        }
    }

    private void expect(char c) throws Malformed {
        if (peek() != c) {
            throw malformed("expected '" + c + "'");
        }
        at++;
    }

    private void space() {
        while (at < end && (bytes[at] == ' ' || bytes[at] == '\t' || bytes[at] == '\r' || bytes[at] == '\n')) {
            at++;
        }
    }

    /** The byte at hand, or -1 at the end. */
    private int peek() {
        return at < end ? bytes[at] & 0xFF : -1;
    }

    private Malformed malformed(String what) {
        return new Malformed(what + ", at byte " + (Math.min(at, end) - start + 1));
    }
}
