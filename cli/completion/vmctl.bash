# SPDX-License-Identifier: Apache-2.0
# bash completion for vmctl(1), with the names of live guests, hosts and jobs.

_vmctl_words()
{
    local socket=()
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -H | --socket) socket=(-H "${COMP_WORDS[i + 1]}") ;;
        esac
    done
    "${COMP_WORDS[0]}" "${socket[@]}" __complete "$1" 2>/dev/null
}

_vmctl()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local verb='' sub='' operands=0 i word
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        -H | --socket | -m | -p | -k | -r | -a | -d | -i | --disk | --memory | --cpus | --kernel | --initrd | --append | \
            --cpu-model | --engine | --interval | --max-downtime | --deadline | --on-miss | --channels | \
            --compress | --max-bandwidth | --name | --address | --after | --suite | --packages | --size | --seed | \
            --password | --ssh-key | --hostname | --user-data | --meta-data | --network-config | --restart)
            ((i++))
            ;;
        -*) ;;
        *)
            if [[ -z $verb ]]; then
                verb=$word
            elif [[ ($verb == job || $verb == host || $verb == image) && -z $sub ]]; then
                sub=$word
            else
                ((operands++))
            fi
            ;;
        esac
    done
    case $prev in
    -f | --file)
        if [[ $verb == create ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
        fi
        ;;
    -H | --socket | -k | -r | -d | --disk | --kernel | --initrd | --seed | --ssh-key | --user-data | --meta-data | --network-config)
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
        ;;
    --restart) mapfile -t COMPREPLY < <(compgen -W 'no on-crash' -- "$cur"); return ;;
    --suite) mapfile -t COMPREPLY < <(compgen -W 'bookworm trixie' -- "$cur"); return ;;
    --on-miss) mapfile -t COMPREPLY < <(compgen -W 'cancel pause force' -- "$cur"); return ;;
    --compress) mapfile -t COMPREPLY < <(compgen -W 'auto none lz4 zstd' -- "$cur"); return ;;
    --channels) mapfile -t COMPREPLY < <(compgen -W 'auto 1 2 4 8' -- "$cur"); return ;;
    --cpu-model) mapfile -t COMPREPLY < <(compgen -W 'host x86-64-v1 x86-64-v2 x86-64-v3' -- "$cur"); return ;;
    --engine) mapfile -t COMPREPLY < <(compgen -W 'auto kvm' -- "$cur"); return ;;
    esac
    local words=''
    if [[ $cur == -* ]]; then
        words='--json --socket --help'
        case $verb in
        start) words+=' --console --memory --cpus --kernel --initrd --append --firmware --disk --net --vsock --virtio-console --cpu-model --engine --prealloc --hugepages --debug-exit --dirty-ring --paused --here' ;;
        create) words+=' --file --replace --autostart --restart --memory --cpus --kernel --initrd --append --firmware --disk --net --vsock --virtio-console --cpu-model --engine --prealloc --hugepages --debug-exit --dirty-ring' ;;
        logs) words+=' --follow --previous --console' ;;
        migrate) words+=' --plan --max-downtime --deadline --on-miss --channels --compress --max-bandwidth --plaintext --verify --paused --detach' ;;
        stop) words+=' --force --wait' ;;
        dirty-rate) words+=' --interval' ;;
        top) words+=' --interval --count --dirty' ;;
        watch) words+=' --after' ;;
        job) words+=' --max-bandwidth --max-downtime --run-here --gone' ;;
        host) words+=' --name --address' ;;
        image)
            if [[ $sub == seed ]]; then
                words+=' --user-data --meta-data --network-config --force'
            else
                words+=' --suite --packages --size --seed --password --password-stdin --ssh-key --hostname --kernel --extract-kernel --force --verbose'
            fi
            ;;
        esac
    elif [[ -z $verb ]]; then
        words=$(_vmctl_words verbs)
    elif [[ $verb == job && -z $sub ]]; then
        words='list show wait cancel set resolve'
    elif [[ $verb == host && -z $sub ]]; then
        words='init invite join list remove'
    elif [[ $verb == image && -z $sub ]]; then
        words='create seed'
    elif ((operands == 0)); then
        case $verb in
        image) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        start | set | delete | export | logs | show | console | pause | unpause | stop | reset | wait | dirty-rate | migrate | status)
            words=$(_vmctl_words guests)
            ;;
        job) [[ $sub != list ]] && words=$(_vmctl_words jobs) ;;
        host) [[ $sub == remove ]] && words=$(_vmctl_words hosts) ;;
        esac
    elif [[ $verb == set ]]; then
        compopt -o nospace
        words='memory= cpus= kernel= initrd= append= cpu-model= engine= prealloc= hugepages= debug-exit= dirty-ring= disks= nets= autostart= restart='
    elif ((operands == 1)) && [[ $verb == migrate ]]; then
        words=$(_vmctl_words hosts)
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _vmctl vmctl
