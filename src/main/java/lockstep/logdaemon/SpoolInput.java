package lockstep.logdaemon;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * A folder into which files of events are moved; oldest first, ties by name. Names that begin with a dot are not looked
 * at: they are being written. A file is removed when its last event is in a finished batch, so a killed daemon's
 * successor reads it again: at least once.
 */
final class SpoolInput implements Input {
    private static final long LOOK_MILLIS = 250;

    /** A file's identity and state: another file under the same name, or the same one grown, is not equal. */
    private record State(Object key, long size, FileTime modified) {
        static State of(BasicFileAttributes attributes) {
            return new State(attributes.fileKey(), attributes.size(), attributes.lastModifiedTime());
        }
    }

    private record Waiting(Path file, State state) {}

    private final Path folder;
    private final Map<Path, State> read = new HashMap<>();
    private final Set<Path> unreadable = new HashSet<>();

    SpoolInput(Path folder) {
        this.folder = folder;
    }

    @Override
    public void feed(Collector collector, CountDownLatch stop) throws IOException, InterruptedException {
        byte[] buffer = new byte[1 << 16];
        while (stop.getCount() > 0) {
            boolean idle = true;
            for (Waiting file : waiting()) {
                if (stop.getCount() == 0) {
                    return;
                }
                idle &= !readWhole(file, collector, buffer);
                collector.settleIfDue();
            }
            if (idle) {
                collector.flush();
                stop.await(Math.min(LOOK_MILLIS, collector.nanosLeft() / 1_000_000 + 1), TimeUnit.MILLISECONDS);
                collector.settleIfDue();
            }
        }
    }

    @Override
    public void settled() throws IOException {
        for (var entry : read.entrySet()) {
            Path file = entry.getKey();
            if (Files.exists(file, LinkOption.NOFOLLOW_LINKS) && State.of(attributes(file)).equals(entry.getValue())) {
                Files.delete(file);
            }
        }
        read.clear();
    }

    private List<Waiting> waiting() throws IOException {
        List<Waiting> oldestFirst = new ArrayList<>();
        try (var files = Files.newDirectoryStream(folder, "[!.]*")) {
            for (Path file : files) {
                if (read.containsKey(file)) {
                    continue;
                }
                try {
                    var attributes = attributes(file);
                    if (attributes.isRegularFile()) {
                        oldestFirst.add(new Waiting(file, State.of(attributes)));
                    }
                } catch (NoSuchFileException gone) {
                    continue;
                }
            }
        }
        oldestFirst.sort(Comparator.comparing((Waiting w) -> w.state().modified()).thenComparing(Waiting::file));
        return oldestFirst;
    }

    /** Whether the file could be read. A stop does not cut it short: half a file's events would come twice. */
    private boolean readWhole(Waiting waiting, Collector collector, byte[] buffer) throws IOException {
        Path file = waiting.file();
        Lines lines = collector.lines();
        try (InputStream in = Files.newInputStream(file)) {
            for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
                lines.add(buffer, count);
            }
        } catch (NoSuchFileException gone) {
            return false;
        } catch (AccessDeniedException denied) {
            if (unreadable.add(file)) {
                Log.say("%s cannot be read and is left where it is", file);
            }
            return false;
        }
        lines.end();
        read.put(file, waiting.state());
        return true;
    }

    private static BasicFileAttributes attributes(Path file) throws IOException {
        return Files.readAttributes(file, BasicFileAttributes.class, LinkOption.NOFOLLOW_LINKS);
    }
}
