package lockstep.logdaemon;

import java.io.BufferedOutputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.file.Path;

/**
 * The lines that are not events, as they came: whoever mends them can hand them in again. The file is opened anew after
 * each {@link #save}, so that it may be moved away at any time.
 */
final class Rejects implements AutoCloseable {
    private final Path file;
    private FileOutputStream out;
    private BufferedOutputStream buffered;
    private long count;

    Rejects(Path file) throws IOException {
        this.file = file;
        open();
        close();
    }

    void write(byte[] bytes, int from, int to) throws IOException {
        if (out == null) {
            open();
        }
        buffered.write(bytes, from, to - from);
    }

    void endLine() throws IOException {
        write(new byte[] {'\n'}, 0, 1);
        count++;
    }

    /** How many lines were rejected since the daemon started. */
    long count() {
        return count;
    }

    /** Returns when what was written will outlast a power cut. */
    void save() throws IOException {
        if (out != null) {
            buffered.flush();
            out.getFD().sync();
            close();
            Log.say("%d lines rejected so far, kept in %s", count, file);
        }
    }

    void flush() throws IOException {
        if (out != null) {
            buffered.flush();
        }
    }

    @Override
    public void close() throws IOException {
        if (out != null) {
            buffered.close();
            out = null;
        }
    }

    private void open() throws IOException {
        out = new FileOutputStream(file.toFile(), true);
        buffered = new BufferedOutputStream(out);
    }
}
