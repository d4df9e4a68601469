// Runs a declarative Jenkinsfile as Jenkins does, as far as ours uses it: `jenkins_agent.groovy JENKINSFILE BUILD`. BUILD is
// a JSON file: workspace, variables, credentials (by id). What happens is told on standard output, one JSON object a line.

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.control.CompilerConfiguration

class Failed extends RuntimeException {
    Failed(String message) { super(message) }
}

/** The names in an `environment` block: read from the build's variables, written to them. */
class Variables {
    Map variables
    def getProperty(String name) { name == 'variables' ? this.@variables : this.@variables[name] }
    void setProperty(String name, value) { this.@variables[name] = value.toString() }
}

class CurrentBuild {
    void setProperty(String name, value) { Pipeline.tell((name): value) }
}

abstract class Pipeline extends Script {
    static Map build
    Map variables = new TreeMap(build.variables)
    boolean failed = false
    boolean wanted = true
    List results = []

    static void tell(Map event) {
        println JsonOutput.toJson(event)
        System.out.flush()
    }

    void pipeline(Closure body) {
        body()
        System.exit(failed ? 1 : 0)
    }
    void agent(Object which) {}
    void options(Closure body) { body() }
    void disableConcurrentBuilds() {}
    void environment(Closure body) {
        body.delegate = new Variables(variables: variables)
        body.resolveStrategy = Closure.DELEGATE_ONLY
        body()
    }
    // Each cell of a matrix has an agent of its own, one after the other: its own workspace, and its own cache.
    Map cell = null
    void matrix(Closure body) { if (wanted) { cell = [:]; body(); cell = null } }
    void axes(Closure body) { body() }
    void axis(Closure body) { body() }
    void name(String name) { cell.name = name }
    void values(String... values) { cell.values = values }
    void stages(Closure body) {
        if (cell == null) { body(); return }
        Map axis = cell
        String workspace = build.workspace
        cell = null
        axis.values.each { value ->
            build.workspace = "${workspace}-${axis.name}-${value}".toString()
            ['cp', '-a', '-n', '-T', workspace, build.workspace].execute().waitFor()
            within([
                (axis.name): value, WORKSPACE: build.workspace, WORKSPACE_TMP: build.workspace + '@tmp',
                XDG_CACHE_HOME: build.workspace + '-cache'
            ], body)
        }
        build.workspace = workspace
    }
    void withEnv(List<String> settings, Closure body) {
        within(settings.collectEntries { it.toString().split('=', 2) as List }, body)
    }
    void within(Map settings, Closure body) {
        Map outside = new TreeMap(variables)
        variables.putAll(settings)
        try { body() } finally { variables.clear(); variables.putAll(outside) }
    }
    void catchError(Map results, Closure body) {
        try { body() } catch (Failed failure) { tell(caught: failure.message) }
    }
    void stage(String name, Closure body) {
        wanted = !failed
        tell(stage: name, reached: wanted)
        try {
            body()
        } catch (Failed failure) {
            tell(failure: failure.message)
            failed = true
        }
    }
    void when(Closure conditions) {
        results = []
        conditions()
        wanted = wanted && results.every()
    }
    void steps(Closure body) { if (wanted) { tell(steps: true); body() } }
    void expression(Closure body) { results << body() }
    void tag(Map condition) {
        assert condition.comparator == 'REGEXP'
        results << (variables.TAG_NAME != null && variables.TAG_NAME ==~ condition.pattern)
    }
    Map getEnv() { variables }
    void script(Closure body) { body() }
    void post(Closure body) { body() }
    void always(Closure body) { body() }

    // A script of its own, no terminal, a process group of its own, all lines of the log together.
    def sh(Map step) {
        File script = File.createTempFile('script', '.sh')
        script.text = step.script
        def process = new ProcessBuilder('setsid', '--wait', 'sh', '-xe', script.path)
        process.directory(new File(build.workspace))
        process.environment().clear()
        process.environment().putAll(variables)
        process.redirectInput(new File('/dev/null'))
        process.redirectError(ProcessBuilder.Redirect.INHERIT)
        if (!step.returnStdout) { process.redirectOutput(new File('/dev/stderr')) }
        def running = process.start()
        String out = step.returnStdout ? running.inputStream.text : ''
        int code = running.waitFor()
        script.delete()
        tell(sh: step.script, code: code)
        if (step.returnStatus) { return code }
        if (code != 0) { throw new Failed("script returned exit code ${code}") }
        return out
    }
    def sh(String script) { sh(script: script) }
    void error(Object message) { throw new Failed(message.toString()) }
    void sleep(Integer seconds) { tell(sleep: seconds) }
    boolean fileExists(String path) { new File(build.workspace, path).exists() }
    Map file(Map binding) { [(binding.variable): build.credentials[binding.credentialsId].file] }
    Map usernamePassword(Map binding) {
        Map login = build.credentials[binding.credentialsId]
        [(binding.usernameVariable): login.user, (binding.passwordVariable): login.password]
    }
    void withCredentials(List<Map> bindings, Closure body) {
        bindings.each { variables.putAll(it) }
        try { body() } finally { bindings.each { binding -> binding.keySet().each { variables.remove(it) } } }
    }
    void junit(Map step) { tell(junit: step.testResults) }
    void archiveArtifacts(Map step) { tell(archive: step.artifacts) }
}

Pipeline.build = new JsonSlurper().parse(new File(args[1]))
def configuration = new CompilerConfiguration(scriptBaseClass: Pipeline.name)
def names = new Binding(any: 'any', currentBuild: new CurrentBuild())
new GroovyShell(Pipeline.classLoader, names, configuration).evaluate(new File(args[0]))
