package lockstep.logdaemon;

import java.io.IOException;
import java.util.Arrays;

/** Cuts a stream of bytes into lines, holding no more than one line of the permitted length. */
final class Lines {
    /** Takes lines, without their line ends. */
    interface Receiver {
        void line(byte[] bytes, int from, int to) throws IOException;

        /** A piece of a line that is too long to be held; {@code last} with the piece that ends it. */
        void tooLong(byte[] bytes, int from, int to, boolean last) throws IOException;
    }

    private final Receiver receiver;
    private final int limit;
    private byte[] held = new byte[8192];
    private int length;
    private boolean overlong;

    Lines(Receiver receiver, int limit) {
        this.receiver = receiver;
        this.limit = limit;
    }

    void add(byte[] bytes, int count) throws IOException {
        int from = 0;
        for (int i = 0; i < count; i++) {
            if (bytes[i] == '\n') {
                end(bytes, from, i);
                from = i + 1;
            }
        }
        hold(bytes, from, count);
    }

    /** The input ended: what is held is a line, though it has no line end. */
    void end() throws IOException {
        if (length > 0 || overlong) {
            end(held, 0, 0);
        }
    }

    private void end(byte[] bytes, int from, int to) throws IOException {
        if (length == 0 && !overlong && to - from <= limit) {
            receiver.line(bytes, from, to);
            return;
        }
        hold(bytes, from, to);
        if (overlong) {
            receiver.tooLong(held, 0, 0, true);
        } else {
            receiver.line(held, 0, length);
        }
        length = 0;
        overlong = false;
    }

    private void hold(byte[] bytes, int from, int to) throws IOException {
        int more = to - from;
        if (!overlong && more > limit - length) {
            overlong = true;
            receiver.tooLong(held, 0, length, false);
            length = 0;
        }
        if (overlong) {
            receiver.tooLong(bytes, from, to, false);
            return;
        }
        if (more > held.length - length) {
            held = Arrays.copyOf(held, (int) Math.min(limit, Math.max(2L * held.length, (long) length + more)));
        }
        System.arraycopy(bytes, from, held, length, more);
        length += more;
    }
}
