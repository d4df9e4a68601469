package lockstep.logdaemon;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.security.SecureRandom;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CountDownLatch;

/** The log daemon: events in, gzip batches out. */
public final class Main {
    private static final int DONE = 0;
    private static final int FAILED = 1;
    private static final int MISUSED = 2;

    private Main() {}

    public static void main(String[] arguments) {
        CountDownLatch stop = new CountDownLatch(1);
        CountDownLatch ended = new CountDownLatch(1);
        int[] status = {FAILED};
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stop.countDown();
            try {
                ended.await();
            } catch (InterruptedException unheard) {
                Thread.currentThread().interrupt();
            }
            // A virtual machine that a signal ends has status 143, as if nothing had been finished.
            Runtime.getRuntime().halt(status[0]);
        }));
        try {
            status[0] = run(List.of(arguments), stop);
        } finally {
            ended.countDown();
        }
        System.exit(status[0]);
    }

    private static int run(List<String> arguments, CountDownLatch stop) {
        if (arguments.contains("--help")) {
            System.out.print(Options.HELP);
            return DONE;
        }
        if (arguments.contains("--version")) {
            System.out.println(version());
            return DONE;
        }
        try {
            collect(Options.parse(arguments.toArray(String[]::new)), stop);
            return DONE;
        } catch (Options.Misused misused) {
            Log.say("%s", misused.getMessage());
            return MISUSED;
        } catch (IOException failed) {
            Log.say("stopped: %s", failed);
            return FAILED;
        } catch (InterruptedException unheard) {
            Thread.currentThread().interrupt();
            return FAILED;
        }
    }

    private static void collect(Options options, CountDownLatch stop)
            throws IOException, InterruptedException, Options.Misused {
        String run = HexFormat.of().formatHex(new SecureRandom().generateSeed(4));
        Path work = options.work();
        Input.Origin origin = options.spool() == null ? Input.Origin.PIPE : Input.Origin.SPOOL;
        try (FileChannel only = lock(work);
                Rejects rejects = new Rejects(options.rejects());
                Batches batches = new Batches(work, options.upload(), options.limits(), origin, options.host(), run)) {
            requireMove(work, options.upload(), run);
            batches.recover();
            Input input = options.spool() == null
                    ? new PipeInput(new FileInputStream(FileDescriptor.in))
                    : new SpoolInput(options.spool());
            Collector collector =
                    new Collector(batches, rejects, input, options.lineBytes(), options.host(), version(), run);
            Log.say("%s reads %s", version(), options.spool() == null ? "standard input" : options.spool());
            input.feed(collector, stop);
            collector.settle();
            Log.say("ended: %d events, %d lines rejected", collector.count(), rejects.count());
        }
    }

    /** The text of `git describe` that the build was given; the manifest of our jar carries it. */
    private static String version() {
        String version = Main.class.getPackage().getImplementationVersion();
        return version == null ? "unknown" : version;
    }

    /** Two daemons in one work folder would recover each other's batches. */
    private static FileChannel lock(Path work) throws IOException, Options.Misused {
        var file = FileChannel.open(work.resolve("lock"), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
        if (file.tryLock() == null) {
            file.close();
            throw new Options.Misused("--work %s: another logdaemon is at work there", work);
        }
        return file;
    }

    /** Asks the kernel, not the mount table: a move between two bind mounts of one file system is none. */
    private static void requireMove(Path work, Path upload, String run) throws IOException, Options.Misused {
        Path here = work.resolve(".probe-" + run);
        Path there = upload.resolve(".probe-" + run);
        Files.createFile(here);
        try {
            Files.move(here, there, StandardCopyOption.ATOMIC_MOVE);
            Files.delete(there);
        } catch (AtomicMoveNotSupportedException across) {
            Files.delete(here);
            throw new Options.Misused("--work %s and --upload %s must be on one file system", work, upload);
        }
    }
}
