package lockstep.logdaemon;

import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.zip.GZIPInputStream;
import java.util.zip.GZIPOutputStream;
import java.util.zip.ZipException;

/**
 * Gzip files of annotated lines: written in the work folder, moved as one into the upload folder when finished.
 *
 * <p>Whoever watches the upload folder sees a whole file or none, also after a power cut: the bytes are on the disk
 * before the name is. A file's name sorts by the time it was begun, and is no other's: host, run and number are in it.
 */
final class Batches implements AutoCloseable {
    /** What a batch may grow to: {@code bytes} before compression, {@code nanos} since its first line. */
    record Limits(long bytes, long events, long nanos) {}

    private static final String UNFINISHED = ".part";
    private static final DateTimeFormatter STAMP =
            DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss.SSS'Z'", Locale.ROOT).withZone(ZoneOffset.UTC);

    private final Path work;
    private final Path upload;
    private final Limits limits;
    private final String prefix;
    private final String suffix;
    private long number;

    private Path file;
    private FileOutputStream raw;
    private GZIPOutputStream gzip;
    private boolean unflushed;
    private long begun;
    private long bytes;
    private long events;

    /**
     * @param origin the kind of input, which decides what becomes of an unfinished file that a crash left
     * @param run tells this run's files from those of every other run of this host
     */
    Batches(Path work, Path upload, Limits limits, Input.Origin origin, String host, String run) {
        this.work = work;
        this.upload = upload;
        this.limits = limits;
        prefix = origin.prefix;
        suffix = "-" + host + "-" + run + "-";
    }

    boolean isOpen() {
        return gzip != null;
    }

    /** Nanoseconds until the open batch is due, {@link Long#MAX_VALUE} without one. */
    long nanosLeft() {
        return isOpen() ? limits.nanos - (System.nanoTime() - begun) : Long.MAX_VALUE;
    }

    boolean isDue() {
        return isOpen() && (bytes >= limits.bytes || events >= limits.events || nanosLeft() <= 0);
    }

    /** Adds one line, made of two pieces and a line end. */
    void add(byte[] first, int from, int to, byte[] second) throws IOException {
        if (!isOpen()) {
            open();
        }
        gzip.write(first, from, to - from);
        gzip.write(second);
        gzip.write('\n');
        unflushed = true;
        bytes += to - from + second.length + 1;
        events++;
    }

    /** Hands what was added to the system, from where a killed daemon's successor recovers it. */
    void flush() throws IOException {
        if (unflushed) {
            gzip.flush();
            unflushed = false;
        }
    }

    /** Finishes the open batch, if there is one: its events are in the upload folder, for good, when this returns. */
    void finish() throws IOException {
        if (!isOpen()) {
            return;
        }
        gzip.finish();
        raw.getFD().sync();
        close();
        String name = file.getFileName().toString();
        Path target = upload.resolve(name.substring(prefix.length(), name.length() - UNFINISHED.length()));
        Files.move(file, target, StandardCopyOption.ATOMIC_MOVE);
        try (FileChannel folder = FileChannel.open(upload, StandardOpenOption.READ)) {
            folder.force(true);
        }
        Log.say("finished %s: %d events, %d bytes", target.getFileName(), events, bytes);
    }

    /** Lets go of an unfinished file, which stays in the work folder. */
    @Override
    public void close() throws IOException {
        if (isOpen()) {
            raw.close();
            gzip = null;
            unflushed = false;
        }
    }

    /** Finishes what an earlier run left unfinished, as far as it can be read; what the spool still has is dropped. */
    void recover() throws IOException {
        for (Path left : leftFiles()) {
            if (!left.getFileName().toString().startsWith(Input.Origin.SPOOL.prefix)) {
                salvage(left);
            } else {
                Files.delete(left);
            }
        }
    }

    private List<Path> leftFiles() throws IOException {
        List<Path> left = new ArrayList<>();
        try (var folder = Files.newDirectoryStream(work, "*" + UNFINISHED)) {
            folder.forEach(left::add);
        }
        left.sort(null);
        return left;
    }

    private void salvage(Path left) throws IOException {
        boolean damaged = false;
        try (InputStream in = new GZIPInputStream(Files.newInputStream(left))) {
            copyLines(in);
        } catch (EOFException killed) {
            // What comes before is what the earlier run had flushed.
        } catch (ZipException corrupt) {
            damaged = true;
        }
        Log.say("recovered %d events from %s", isOpen() ? events : 0, left.getFileName());
        finish();
        if (damaged) {
            // Not deleted: what can be read of it was taken, the rest is for whoever can repair it.
            Path kept = left.resolveSibling(left.getFileName() + ".damaged");
            Files.move(left, kept);
            Log.say("the rest of it is damaged and kept as %s", kept);
        } else {
            Files.delete(left);
        }
    }

    private void copyLines(InputStream in) throws IOException {
        byte[] buffer = new byte[1 << 16];
        ByteArrayOutputStream held = new ByteArrayOutputStream();
        for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
            int from = 0;
            for (int i = 0; i < count; i++) {
                if (buffer[i] == '\n') {
                    held.write(buffer, from, i - from);
                    add(held.toByteArray(), 0, held.size(), new byte[0]);
                    held.reset();
                    from = i + 1;
                }
            }
            held.write(buffer, from, count - from);
        }
    }

    private void open() throws IOException {
        String name = STAMP.format(Instant.now()) + suffix + String.format(Locale.ROOT, "%06d", ++number);
        file = work.resolve(prefix + name + ".json.gz" + UNFINISHED);
        raw = new FileOutputStream(file.toFile());
        gzip = new GZIPOutputStream(raw, 1 << 16, true);
        begun = System.nanoTime();
        bytes = 0;
        events = 0;
    }
}
